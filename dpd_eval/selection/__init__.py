"""Subsets of real images, one file per method: the baselines that a distilled set is compared with."""
