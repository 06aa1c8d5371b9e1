"""Metrics of a whole set against the real images, in the feature space of one extractor."""
