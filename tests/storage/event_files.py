"""TensorBoard's files, of several starts of a run."""

import time


def next_second():
    """Files are read by their names, which begin with the second that they were made in."""
    time.sleep(1.05 - time.time() % 1)
