"""Feature extractors: networks whose features and labels judge images."""
