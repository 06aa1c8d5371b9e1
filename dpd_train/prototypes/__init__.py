"""Prototypes: means of latents, matched codes, noise on means, and the limits of nearness to real images."""
