"""Matched prototypes: latent codes of which a few stand for many images (`--prototypes matched`).

They start as generated images and are optimised through the frozen decoder until what networks see in them agrees with
what they see in all training images of a class. Real images enter through aggregates over whole classes alone.
"""

from dpd_train.prototypes.matching.codes import Matching, Watcher, match_codes
from dpd_train.prototypes.matching.start import starting_codes
from dpd_train.prototypes.matching.statistics import Statistics, embed, measure
from dpd_train.prototypes.matching.watchers import is_trained, load_watchers, train_watchers

__all__ = [
    "Matching",
    "Statistics",
    "Watcher",
    "embed",
    "is_trained",
    "load_watchers",
    "match_codes",
    "measure",
    "starting_codes",
    "train_watchers",
]
