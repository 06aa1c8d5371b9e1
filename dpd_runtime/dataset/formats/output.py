"""The requested form of a set: format, image format, soft labels."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dpd_runtime.dataset.formats.encoding import ENCODINGS, NPY, PNG, Encoding
from dpd_runtime.dataset.formats.format import Format
from dpd_runtime.dataset.formats.geotiff import GeoTiff
from dpd_runtime.dataset.formats.imagefolder import IMAGEFOLDER
from dpd_runtime.dataset.formats.npz import NPZ
from dpd_runtime.dataset.formats.parquet import PARQUET
from dpd_runtime.dataset.formats.webdataset import WEBDATASET
from dpd_runtime.errors import InputError
from dpd_runtime.images.bands import Band
from dpd_runtime.text import counted

FORMATS = {known.name: known for known in (IMAGEFOLDER, WEBDATASET, PARQUET, NPZ)}
OF_BANDS = (IMAGEFOLDER, NPZ)
"""Formats that hold images of any bands."""
UNFINISHED_NAME = ".unfinished"


@dataclass(frozen=True)
class Output:
    """The form in which a set is written.

    Args:
        format: a name of FORMATS.
        image_format: a name of ENCODINGS; None for png, or for a format without encoded images.
        soft_labels: whether the bundle's teacher labels every image.
        bands: of the bundle's images; empty for RGB.

    Raises:
        InputError: an unknown name, an image format for a format without encoded images, or a form that cannot hold
            the bands.
    """

    format: str = IMAGEFOLDER.name
    image_format: str | None = None
    soft_labels: bool = False
    bands: tuple[Band, ...] = ()

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            meant = f"; for {self.format} files use --image-format {self.format}" if self.format in ENCODINGS else ""
            raise InputError(f"format {self.format!r} is unknown: use one of {', '.join(FORMATS)}{meant}")
        if self.bands and self.kind not in OF_BANDS:
            names = " or ".join(known.name for known in OF_BANDS)
            raise InputError(
                f"--format {self.format} holds RGB, and this bundle has {counted(len(self.bands), 'band')}: use {names}"
            )
        if self.bands and self.image_format is not None:
            raise InputError(
                f"--image-format {self.image_format} holds RGB, and this bundle has "
                f"{counted(len(self.bands), 'band')}, which "
                "are written as GeoTIFF: leave it out"
            )
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
    def form(self) -> str:
        """Format and encoding in words, such as "imagefolder png"."""
        return " ".join((self.format, *([self.encoding.name] if self.kind.encodes else ())))

    @property
    def kind(self) -> Format:
        return FORMATS[self.format]

    def of(self, bands: tuple[Band, ...]) -> "Output":
        """This form for images of these bands."""
        return replace(self, bands=bands)

    @property
    def encoding(self) -> Encoding:
        if self.bands:
            return GeoTiff("geotiff", ".tif", bands=self.bands)
        return ENCODINGS[self.image_format or PNG.name]

    @property
    def direct(self) -> bool:
        """Whether images are written to their final place at once. Otherwise they are kept as PNG until all are
        computed: a lossy file no longer has the pixels of the set hash, and a packed file cannot be repaired. Physical
        values of bands are not those pixels either."""
        return self.kind is IMAGEFOLDER and self.encoding.quality is None and not self.bands

    @property
    def block_encoding(self) -> Encoding:
        """The encoding of the image files of an unfinished set."""
        return self.encoding if self.direct else waiting_encoding(bool(self.bands))

    def block_folder(self, out: Path) -> Path:
        """The folder of the image files of an unfinished set."""
        return out if self.direct else out / UNFINISHED_NAME

    def header(self) -> dict[str, Any]:
        """The part of a set's header about its form. Defaults are left out, as in old sets."""
        form: dict[str, Any] = {"format": self.format} if self.kind is not IMAGEFOLDER else {}
        encoded = self.kind.encodes and self.encoding is not PNG
        form |= {"image_format": self.encoding.name} if encoded else {}
        return form | ({"bands": len(self.bands)} if self.bands else {})

    def describe(self) -> dict[str, Any]:
        """The part of dataset.json about the form."""
        form: dict[str, Any] = {"format": self.format}
        if self.kind.encodes:
            form["image_format"] = self.encoding.name
            if self.encoding.quality is not None:
                form["quality"] = self.encoding.quality
        bands = {"bands": [band.to_dict() for band in self.bands]} if self.bands else {}
        return form | bands | {"soft_labels": self.soft_labels}

    def check(self) -> None:
        """Check that this form can be written here. Call it before anything is computed or deleted.

        Raises:
            MissingExtraError: a package is not installed.
            InputError: the installed Pillow lacks the encoder.
        """
        self.kind.check()
        if self.kind.encodes:
            self.encoding.check()


def waiting_encoding(bands: bool) -> Encoding:
    """The encoding of images that wait for the others: NumPy's format where PNG cannot hold them."""
    return NPY if bands else PNG


def file_suffix(image_format: str) -> str:
    """The suffix of the images of a finished set, by the name of their encoding; that of PNG for an unknown name."""
    return ".tif" if image_format == "geotiff" else ENCODINGS.get(image_format, PNG).suffix
