"""What our plans are compared with; each peer is given the same `problem` and runs in a process of its own."""
