"""What the user asked the set to be written as."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpd_runtime.dataset.formats.encoding import ENCODINGS, PNG, Encoding
from dpd_runtime.dataset.formats.format import Format
from dpd_runtime.dataset.formats.imagefolder import IMAGEFOLDER
from dpd_runtime.dataset.formats.npz import NPZ
from dpd_runtime.dataset.formats.parquet import PARQUET
from dpd_runtime.dataset.formats.webdataset import WEBDATASET
from dpd_runtime.errors import InputError

FORMATS = {known.name: known for known in (IMAGEFOLDER, WEBDATASET, PARQUET, NPZ)}
UNFINISHED_NAME = ".unfinished"


@dataclass(frozen=True)
class Output:
    """Args:
        format: a name of FORMATS.
        image_format: a name of ENCODINGS; None is png, where the format keeps encoded images at all.
        soft_labels: whether the bundle's teacher labels every image.

    Raises:
        InputError: an unknown name, or an image format that would be ignored.
    """

    format: str = IMAGEFOLDER.name
    image_format: str | None = None
    soft_labels: bool = False

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise InputError(f"format {self.format!r} is unknown: use one of {', '.join(FORMATS)}")
        if self.image_format is None:
            return
        if self.image_format not in ENCODINGS:
            raise InputError(f"image-format {self.image_format!r} is unknown: use one of {', '.join(ENCODINGS)}")
        if not self.kind.encodes:
            raise InputError(
                f"--image-format {self.image_format} has no effect on --format {self.format}, which keeps plain "
                "pixels: leave it out"
            )

    @property
    def kind(self) -> Format:
        return FORMATS[self.format]

    @property
    def encoding(self) -> Encoding:
        return ENCODINGS[self.image_format or PNG.name]

    @property
    def direct(self) -> bool:
        """Whether images are written where they stay. Else they wait as PNG until all are there: the set hash is over
        pixels, which a lossy file no longer has, and a packed file cannot be mended."""
        return self.kind is IMAGEFOLDER and self.encoding.quality is None

    @property
    def block_encoding(self) -> Encoding:
        """Of the image files that blocks are kept in."""
        return self.encoding if self.direct else PNG

    def block_folder(self, out: Path) -> Path:
        """Where the image files that blocks are kept in stand."""
        return out if self.direct else out / UNFINISHED_NAME

    def header(self) -> dict[str, str]:
        """What two runs into one folder must have in common: only what is not the default, as in sets of old."""
        found = {"format": self.format} if self.kind is not IMAGEFOLDER else {}
        return found | ({"image_format": self.encoding.name} if self.encoding is not PNG else {})

    def describe(self) -> dict[str, Any]:
        """The lines of dataset.json."""
        found: dict[str, Any] = {"format": self.format}
        if self.kind.encodes:
            found["image_format"] = self.encoding.name
            if self.encoding.quality is not None:
                found["quality"] = self.encoding.quality
        return found | {"soft_labels": self.soft_labels}

    def check(self) -> None:
        """Whether it can be written here, before anything is computed or deleted.

        Raises:
            MissingExtraError: a package is not installed.
            InputError: this Pillow lacks the encoder.
        """
        self.kind.check()
        self.encoding.check()
