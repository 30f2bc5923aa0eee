"""Recorded data: what others recorded becomes a replay, and a replay what others read. Knows no torch."""
