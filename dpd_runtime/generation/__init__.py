"""Generation of images from a bundle, block by block."""
