"""Training: collect, learn, and what surrounds it (processes, transfers)."""
