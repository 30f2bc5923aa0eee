"""What can be read off a run or a machine: scores, figures, what skills do, what is installed."""
