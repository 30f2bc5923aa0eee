"""What happened: the driver that steps environments, the replay that keeps it, rewards of another task for it."""
