"""Read labelled scenes from folder trees and lists into square images of one size, and report every file left out."""

from dpd_runtime.images.pictures import DECODERS, SUFFIXES
from dpd_train.images.read import (
    Counted,
    check_files,
    common_size,
    count_scenes,
    hash_part,
    image_sizes,
    natural_side,
    read_scenes,
    split_folders,
)
from dpd_train.images.rendering import Rendering
from dpd_train.images.scene_set import (
    Finding,
    Findings,
    Part,
    Rejected,
    SceneSet,
    fingerprint,
    look_over,
    to_float,
    write_quarantine,
)
from dpd_train.reading import PLAIN, Reading, parse_reading

__all__ = [
    "DECODERS",
    "PLAIN",
    "SUFFIXES",
    "Counted",
    "Finding",
    "Findings",
    "Part",
    "Reading",
    "Rejected",
    "Rendering",
    "SceneSet",
    "check_files",
    "common_size",
    "count_scenes",
    "fingerprint",
    "hash_part",
    "image_sizes",
    "look_over",
    "natural_side",
    "parse_reading",
    "read_scenes",
    "split_folders",
    "to_float",
    "write_quarantine",
]
