"""Codes with differential privacy: private images enter through class sums and one second moment only."""
