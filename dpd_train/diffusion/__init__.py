"""Training of the denoiser: one step and its losses, averages of the weights, LoRA, classification consistency."""
