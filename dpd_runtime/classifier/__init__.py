"""Classifiers that `dpd fit` made, and labelling images by them."""
