"""Base models: the nano base, folders in diffusers' layout, the hub, and the latents of their VAE."""
