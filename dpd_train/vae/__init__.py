"""Training of the VAE, its decoder alone, and the networks of its perceptual loss."""
