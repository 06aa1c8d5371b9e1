"""Devices, precision, checkpoints, several processes, experiment trackers."""
