"""Planning: one cross-entropy method, and where skills come from."""
