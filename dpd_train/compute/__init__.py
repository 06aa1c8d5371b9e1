"""Devices, checkpoints, training in several processes, compressed gradients, experiment trackers."""
