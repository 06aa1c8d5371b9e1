"""Training of the VAE and its perceptual networks."""
