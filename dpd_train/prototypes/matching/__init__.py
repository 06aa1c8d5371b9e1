"""Matched codes: a few latents that stand for all images of a class (`--prototypes matched`).

They start as sampled images, or as noise for other bands than RGB, and are optimised through the frozen decoder until
features of networks, the watchers, have the same statistics as for all training images of the class. Real images enter
only through these class statistics.
"""

from dpd_train.prototypes.matching.codes import Matching, See, Watcher, match_codes, seeing, seeing_only
from dpd_train.prototypes.matching.start import gaussian_codes, starting_codes
from dpd_train.prototypes.matching.statistics import (
    Features,
    Standard,
    Statistics,
    cut,
    embed,
    features_of,
    maps_of,
    measure,
)
from dpd_train.prototypes.matching.watchers import load_watchers, train_watchers, view_seed, with_logits

__all__ = [
    "Features",
    "Matching",
    "See",
    "Standard",
    "Statistics",
    "Watcher",
    "cut",
    "embed",
    "features_of",
    "gaussian_codes",
    "load_watchers",
    "maps_of",
    "match_codes",
    "measure",
    "seeing",
    "seeing_only",
    "starting_codes",
    "train_watchers",
    "view_seed",
    "with_logits",
]
