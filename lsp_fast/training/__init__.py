"""Training: collect, learn, and what surrounds it (transfer, sweeps)."""
