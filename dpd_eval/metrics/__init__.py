"""Metrics of a whole set, compared with the real images in the feature space of one extractor."""
