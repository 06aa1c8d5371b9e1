"""Training with PyTorch: labelled images in, a run directory out."""
