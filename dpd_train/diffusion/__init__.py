"""Training of the denoiser: losses, averages, LoRA, classification consistency."""
