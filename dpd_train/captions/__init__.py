"""Captions of images, the captioners that find their phrases, and prompts: the phrases that images share."""
