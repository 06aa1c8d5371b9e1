"""The interface of a format: it packs the images of a complete set into files."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpd_runtime.annotations import Float32, Pixels
from dpd_runtime.dataset.formats.encoding import Encoding
from dpd_runtime.images.bands import Band


@dataclass(frozen=True)
class Sample:
    """One image: its line of metadata.jsonl, pixels uint8 [H, W, N], soft label float32 [C] or None."""

    record: dict[str, Any]
    pixels: Pixels
    soft_label: Float32 | None


@dataclass(frozen=True)
class Contents:
    """The properties of a set that are known before its first image.

    Args:
        images: their number.
        classes: names of all classes of the bundle, by label.
        side: (height, width) of every image.
        soft_labels: whether the samples have soft labels.
        bands: of the images; empty for RGB.
    """

    images: int
    classes: tuple[str, ...]
    side: tuple[int, int]
    encoding: Encoding
    soft_labels: bool
    bands: tuple[Band, ...] = ()


@dataclass(frozen=True)
class Format:
    """A format.

    Args:
        pack: writes all samples, in the order (class utf-8, index), to the set's folder with few in memory at a time.
            Returns the names of the files that hold the whole set. The same samples give the same bytes.
        files: pattern of those names.
        encodes: whether it holds encoded images, so that an image format can be chosen.
        image_name: (class name, label, index, suffix) → the image's `file_name` in metadata.jsonl.
        check: raises MissingExtraError if a package is missing. It is called before anything is computed.
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
