"""Find the foreground of images, and cut images to it."""
