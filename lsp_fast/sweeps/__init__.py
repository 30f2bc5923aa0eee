"""Experiments: tasks x methods x seeds from a file, here or on a cluster, and the search for values."""
