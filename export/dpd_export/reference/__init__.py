"""What PyTorch generates from a run: the reference for graphs and golden images."""
