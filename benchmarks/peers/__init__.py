"""What our plans and updates are compared with; each peer has the same problem, and a process of its own."""
