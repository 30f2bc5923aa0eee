"""What a run leaves on disk: its folder, checkpoints, logs, and how much room they will take."""
