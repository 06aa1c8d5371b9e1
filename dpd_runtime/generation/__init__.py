"""From a bundle to images, block by block."""
