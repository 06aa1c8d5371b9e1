"""Codes with differential privacy (METHOD §11): private images enter through class sums and one second moment only."""
