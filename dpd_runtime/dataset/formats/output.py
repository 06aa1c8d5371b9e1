"""The requested form of a set: format, image format, soft labels."""

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
    """The form in which a set is written.

    Args:
        format: a name of FORMATS.
        image_format: a name of ENCODINGS; None for png, or for a format without encoded images.
        soft_labels: whether the bundle's teacher labels every image.

    Raises:
        InputError: an unknown name, or an image format for a format without encoded images.
    """

    format: str = IMAGEFOLDER.name
    image_format: str | None = None
    soft_labels: bool = False

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            meant = f"; for {self.format} files use --image-format {self.format}" if self.format in ENCODINGS else ""
            raise InputError(f"format {self.format!r} is unknown: use one of {', '.join(FORMATS)}{meant}")
        if self.image_format is None:
            return
        if self.image_format not in ENCODINGS:
            meant = f"; for a {self.image_format} set use --format" if self.image_format in FORMATS else ""
            raise InputError(f"image-format {self.image_format!r} is unknown: use one of {', '.join(ENCODINGS)}{meant}")
        if not self.kind.encodes:
            raise InputError(
                f"--image-format {self.image_format} has no effect with --format {self.format}, which stores plain "
                "pixels; leave it out"
            )

    @property
    def kind(self) -> Format:
        return FORMATS[self.format]

    @property
    def encoding(self) -> Encoding:
        return ENCODINGS[self.image_format or PNG.name]

    @property
    def direct(self) -> bool:
        """Whether images are written to their final place at once. Otherwise they are kept as PNG until all are
        computed: a lossy file no longer has the pixels of the set hash, and a packed file cannot be repaired."""
        return self.kind is IMAGEFOLDER and self.encoding.quality is None

    @property
    def block_encoding(self) -> Encoding:
        """The encoding of the image files of an unfinished set."""
        return self.encoding if self.direct else PNG

    def block_folder(self, out: Path) -> Path:
        """The folder of the image files of an unfinished set."""
        return out if self.direct else out / UNFINISHED_NAME

    def header(self) -> dict[str, str]:
        """The part of a set's header about its form. Defaults are left out, as in old sets."""
        form = {"format": self.format} if self.kind is not IMAGEFOLDER else {}
        return form | ({"image_format": self.encoding.name} if self.encoding is not PNG else {})

    def describe(self) -> dict[str, Any]:
        """The part of dataset.json about the form."""
        form: dict[str, Any] = {"format": self.format}
        if self.kind.encodes:
            form["image_format"] = self.encoding.name
            if self.encoding.quality is not None:
                form["quality"] = self.encoding.quality
        return form | {"soft_labels": self.soft_labels}

    def check(self) -> None:
        """Check that this form can be written here. Call it before anything is computed or deleted.

        Raises:
            MissingExtraError: a package is not installed.
            InputError: the installed Pillow lacks the encoder.
        """
        self.kind.check()
        self.encoding.check()
