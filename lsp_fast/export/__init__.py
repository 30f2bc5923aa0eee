"""A trained agent as files that act without this package: graphs, a description, a small program."""
