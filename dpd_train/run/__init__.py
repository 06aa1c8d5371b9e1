"""A run directory: its data, its stages, its record."""
