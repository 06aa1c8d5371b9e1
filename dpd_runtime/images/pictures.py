"""Open image files that others may have made: few formats, regular files, and a limit on the pixels."""

import io
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from dpd_runtime.annotations import Pixels
from dpd_runtime.files import open_regular
from dpd_runtime.images.effort import excess

# Only these decoders are used, whatever the file is called: EPS, for example, would start Ghostscript.
DECODERS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
UNREAD = frozenset({".gif", ".jp2", ".heic", ".avif"})  # images that no decoder here reads: a reason, not silence
MOST_PIXELS = 2**25  # Pillow needs up to 8 bytes for each, and a file of 8 KB can hold that many
MOST_PIXELS_OF_SET = 2**24  # as in a bundle's manifest
MOST_BYTES = 2**28


def is_image(path: Path) -> bool:
    """Whether a file counts as an image where a folder is listed, by its name alone. Those of UNREAD get a reason."""
    return path.suffix.lower() in SUFFIXES | UNREAD and not path.name.startswith(".") and not path.is_dir()


def open_image(content: bytes) -> ImageFile.ImageFile:
    """Open an image by its header, without decoding it. Damaged bytes raise almost any type, here and on decoding.

    Raises:
        PIL.UnidentifiedImageError: not in one of the formats.
        PIL.Image.DecompressionBombError: more than 2**25 pixels.
        ValueError: it would take far longer than its pixels do.
    """
    image = Image.open(io.BytesIO(content), formats=DECODERS)
    if image.width * image.height > MOST_PIXELS:
        raise Image.DecompressionBombError(f"{image.width} × {image.height} pixels")
    if reason := excess(content):
        raise ValueError(reason)
    return image


def read_pixels(path: Path, most: int = MOST_PIXELS_OF_SET) -> Pixels | None:
    """The pixels of an image file, uint8 [H, W, 3], or of an array of bands (.npy), uint8 [H, W, N].

    None if it is missing, damaged or no regular file.

    Args:
        most: width times height; an image of more pixels is not decoded.
    """
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > MOST_BYTES:
                return None
            content = file.read()
        if path.suffix == ".npy":
            array = np.load(io.BytesIO(content), allow_pickle=False)
            return array if array.dtype == np.uint8 and array.ndim == 3 else None
        with warnings.catch_warnings(action="ignore"), open_image(content) as image:  # the TIFF reader warns
            return np.asarray(image.convert("RGB")) if image.width * image.height <= most else None
    except Exception:  # decoders raise almost any type on damaged bytes
        return None
