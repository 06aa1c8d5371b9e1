"""Prototypes: means of latents, matched codes, and the limits that keep them away from real images."""
