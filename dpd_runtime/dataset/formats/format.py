"""What a format is: it takes the images of a complete set one after another and leaves files."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dpd_runtime.dataset.formats.encoding import Encoding


@dataclass(frozen=True)
class Sample:
    """One image: its line of metadata.jsonl, pixels uint8 [H, W, 3], teacher's probabilities float32 [C] or None."""

    record: dict[str, Any]
    pixels: npt.NDArray[np.uint8]
    soft_label: npt.NDArray[np.float32] | None


@dataclass(frozen=True)
class Contents:
    """What is known before the first image.

    Args:
        images: how many follow.
        classes: class names by label, of the whole bundle.
        side: (height, width) of every image.
        soft_labels: whether every sample has one.
    """

    images: int
    classes: tuple[str, ...]
    side: tuple[int, int]
    encoding: Encoding
    soft_labels: bool


@dataclass(frozen=True)
class Format:
    """Args:
    pack: writes all samples, which come in the order (class utf-8, index), into the set's folder, holding few at a
        time; returns the names of the files that hold the whole set. The same samples give the same bytes.
    files: the names that `pack` gives to such files.
    encodes: whether it keeps encoded images, so that an image format means something.
    image_name: (class name, label, index, suffix) → the image's `file_name` in metadata.jsonl.
    check: raises MissingExtraError where a package is missing; called before anything is computed.
    """

    name: str
    pack: Callable[[Iterator[Sample], Path, Contents], list[str]]
    files: re.Pattern[str]
    encodes: bool
    image_name: Callable[[str, int, int, str], str]
    check: Callable[[], None] = lambda: None


def folder_name(class_name: str, label: int, index: int, suffix: str) -> str:
    """The name of an image in an ImageFolder."""
    return f"{class_name}/{class_name}_{index:05d}{suffix}"
