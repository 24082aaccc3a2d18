"""Data sets of trajectories."""
