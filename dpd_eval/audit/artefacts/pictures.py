"""Find pictures and their metadata. A bundle has no pictures; those of a set have no EXIF, GPS or text data."""

import warnings
from io import BytesIO

from dpd_eval.audit.artefacts.artefact import Artefact
from dpd_runtime.images.pictures import open_image
from dpd_runtime.images.tags import TIFF_STARTS, first_directory
from dpd_train.images import SUFFIXES

MARKS = {
    b"\xff\xd8\xff\xe0\x00\x10JFIF": "a JPEG picture",
    b"\x89PNG\r\n\x1a\n": "a PNG picture",
    b"WEBPVP8": "a WebP picture",
    b"Exif\x00\x00": "EXIF data",
    b"GPSLatitude": "GPS data",
    b"http://ns.adobe.com/xap/": "XMP data",
}
GPS = 0x8825
TELLING = {
    0x010E: "ImageDescription",
    0x010F: "Make",
    0x0110: "Model",
    0x0132: "DateTime",
    0x013B: "Artist",
    GPS: "GPS",
}
ON_A_MAP = {33550: "ModelPixelScale", 33922: "ModelTiepoint", 34264: "ModelTransformation", 34735: "GeoKeyDirectory"}
SAMPLE_FORMAT, FLOATS = 339, 3
OF_FORMATS = ("dpi", "gamma", "compression", "jfif", "progressive", "loop", "background", "timestamp", "duration")


def find_pictures(name: str, content: bytes, *, of_set: bool) -> list[Artefact]:
    """Find metadata in a set's picture; in any other file find pictures and metadata."""
    if of_set and name.lower().endswith(tuple(SUFFIXES)):
        return _metadata(name, content)
    return [Artefact(name, what, f"at byte {content.find(mark)}") for mark, what in MARKS.items() if mark in content]


def _metadata(name: str, content: bytes) -> list[Artefact]:
    try:
        if content.startswith(TIFF_STARTS) and (found := _values(name, content)) is not None:
            return found
        with warnings.catch_warnings(action="ignore"), open_image(content) as image:
            tags = dict(image.getexif())
            texts = [key for key in image.info if isinstance(key, str) and not key.startswith(OF_FORMATS)]
    except Exception:  # decoders raise almost any type on damaged bytes
        return [Artefact(name, "a picture that cannot be opened", "")]
    artefacts = [Artefact(name, "EXIF data", label) for tag, label in TELLING.items() if tag in tags]
    return artefacts + [Artefact(name, "picture metadata", key) for key in texts if key != "exif"]


def _values(name: str, content: bytes) -> list[Artefact] | None:
    """Find metadata in a TIFF of physical values, which has tags that Pillow does not tell of.

    A made-up scene lies nowhere, so a place on the map is that of a real image. None for a TIFF of other values.
    """
    tags = first_directory(BytesIO(content))
    if FLOATS not in tags.get(SAMPLE_FORMAT, ()):
        return None
    artefacts = [Artefact(name, "EXIF data", label) for tag, label in TELLING.items() if tag in tags]
    return artefacts + [Artefact(name, "a place on the map", label) for tag, label in ON_A_MAP.items() if tag in tags]
