"""Captions and prompts: what images of a class share, in words."""
