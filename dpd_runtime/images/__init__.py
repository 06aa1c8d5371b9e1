"""Read image files that others may have made."""
