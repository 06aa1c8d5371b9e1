"""What PyTorch generates from a run: sampling cases, reference images, calibration, and the comparison at the end."""
