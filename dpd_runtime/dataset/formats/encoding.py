"""Pixels → the bytes of an image file."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from dpd_runtime.errors import InputError


@dataclass(frozen=True)
class Encoding:
    """Args:
    quality: of a lossy encoding, as Pillow counts it (1 … 100); None is lossless.
    options: further ones for Pillow.
    """

    name: str
    suffix: str
    quality: int | None = None
    options: tuple[tuple[str, Any], ...] = ()

    def encode(self, pixels: npt.NDArray[np.uint8]) -> bytes:
        """The file's bytes for uint8 [H, W, 3]; equal pixels give equal bytes."""
        options: dict[str, Any] = dict(self.options)
        if self.quality is not None:
            options["quality"] = self.quality
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format=self.name.upper(), **options)
        return buffer.getvalue()

    def check(self) -> None:
        """Raises:
        InputError: this Pillow was built without the encoder.
        """
        try:
            self.encode(np.zeros((8, 8, 3), np.uint8))
        except (OSError, KeyError) as error:
            raise InputError(
                f"--image-format {self.name}: this Pillow cannot write it ({error}); use png, or pip's own Pillow"
            ) from error


PNG = Encoding("png", ".png")
ENCODINGS = {
    encoding.name: encoding
    for encoding in (
        PNG,
        Encoding("jpeg", ".jpg", 95, (("subsampling", 0),)),  # small scenes are made of fine colours
        Encoding("webp", ".webp", 95),
        Encoding("tiff", ".tiff", None, (("compression", "tiff_deflate"),)),
    )
}
