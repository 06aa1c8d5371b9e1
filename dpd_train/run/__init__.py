"""A run of `dpd train`: its data, its stages, and the run directory that it writes."""
