"""The PyTorch half: images in, a run directory out."""
