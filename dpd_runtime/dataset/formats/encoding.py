"""Encodings of single images."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from dpd_runtime.annotations import Pixels
from dpd_runtime.errors import InputError


@dataclass(frozen=True)
class Encoding:
    """An image format of Pillow's.

    Args:
        quality: 1 … 100 for a lossy format, as in Pillow; None for a lossless one.
        options: further options of Pillow.
    """

    name: str
    suffix: str
    quality: int | None = None
    options: tuple[tuple[str, Any], ...] = ()

    def encode(self, pixels: Pixels) -> bytes:
        """The file's bytes for pixels uint8 [H, W, 3]. Equal pixels give equal bytes."""
        options: dict[str, Any] = dict(self.options)
        if self.quality is not None:
            options["quality"] = self.quality
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format=self.name.upper(), **options)
        return buffer.getvalue()

    def check(self) -> None:
        """Check that the installed Pillow has the encoder.

        Raises:
            InputError: it does not.
        """
        try:
            self.encode(np.zeros((8, 8, 3), np.uint8))
        except (OSError, KeyError) as error:
            raise InputError(
                f"--image-format {self.name}: Pillow cannot write it here ({error}); use png or install Pillow with pip"
            ) from error


@dataclass(frozen=True)
class Array(Encoding):
    """NumPy's format, which holds any number of bands. Only unfinished sets have such files."""

    def encode(self, pixels: Pixels) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, pixels, allow_pickle=False)
        return buffer.getvalue()


PNG = Encoding("png", ".png")
NPY = Array("npy", ".npy")
ENCODINGS = {
    encoding.name: encoding
    for encoding in (
        PNG,
        Encoding("jpeg", ".jpg", 95, (("subsampling", 0),)),  # small scenes have fine colour details
        Encoding("webp", ".webp", 95),
        Encoding("tiff", ".tiff", None, (("compression", "tiff_deflate"),)),
    )
}
