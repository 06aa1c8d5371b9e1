"""What the tags of a TIFF say of its values, and whether a band that is marked as alpha is a mask."""

import math
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from struct import Struct
from struct import error as StructError
from typing import Any, BinaryIO

import numpy.typing as npt
from PIL import TiffImagePlugin

from dpd_runtime.bands import SENTINEL2_BANDS
from dpd_runtime.text import printable

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF
KIND, BITS, PHOTOMETRIC, BANDS, EXTRA, FORMAT = 254, 258, 262, 277, 338, 339
GDAL_METADATA, GDAL_NODATA = 42112, 42113
DECISIVE = (KIND, BITS, PHOTOMETRIC, BANDS, EXTRA, FORMAT, GDAL_METADATA, GDAL_NODATA)
REDUCED, MASK = 1, 4  # bits of KIND
WHITE_IS_ZERO, RGB, CMYK = 0, 2, 5
READ = (WHITE_IS_ZERO, 1, RGB, 3, CMYK, 6)  # of PHOTOMETRIC; 1 is grey, 3 palette, 6 YCbCr
SIGNED = 2  # of FORMAT
ALPHAS = (1, 2)  # of EXTRA: associated and unassociated; 0 is a band of which nothing is said
COLOURS = ("red", "green", "blue")
MOST_DIRECTORIES = 64  # overviews halve the sides, so there are fewer
LEAST_OF_MASK = 0.9
"""Share of a mask's values that are 0 or its largest: one that is drawn has soft edges. A band has others."""
ITEM = re.compile(r"<Item\b([^>]{0,200})>([^<]{0,100})</Item>")
ATTRIBUTE = re.compile(r'(\w+)="([^"]*)"')
MULTI_PAGE = "animated or multi-page; save the wanted image as its own file"


@dataclass(frozen=True)
class Tags:
    """Those tags of a TIFF's first image that decide what a value means.

    bands, bits  how many, and bits of the deepest
    photometric  as the tag has it; RGB where the first three bands are red, green and blue
    alpha        whether a band is marked as alpha; also True where nothing is said of four bands of RGB
    signed       whether values are signed integers
    no_data      the value that stands for no data; None without one
    scaled       `scale 0.0001 and offset 0` where a band's values are not the stored ones; else empty
    colours      the 1-based numbers of the bands called red, green and blue; None without such names
    masked       whether a mask is stored beside the image
    unclear      what is wrong with the value for no data; empty if nothing is
    fault        why Pillow cannot give the values as a picture; empty if it can
    """

    bands: int
    bits: int
    photometric: int | None
    alpha: bool
    signed: bool
    no_data: float | None
    scaled: str
    colours: tuple[int, int, int] | None
    masked: bool
    unclear: str
    fault: str

    @property
    def options(self) -> str:
        """The options that read the image by its bands."""
        in_order = self.bands == 3 or self.photometric == RGB
        usual = (1, 2, 3) if in_order else (4, 3, 2) if self.bands in SENTINEL2_BANDS else (3, 2, 1)
        bands = "1" if self.bands < 3 else ",".join(map(str, self.colours or usual))
        return f"--bands {bands}" + " --stretch 2,98" * (self.bits > 8 or self.signed or bool(self.scaled))


def read_tags(content: bytes) -> Tags | None:
    """The tags of a TIFF; None for any other file.

    Raises:
        Exception: almost any type, on damaged bytes.
    """
    if not content.startswith(TIFF_STARTS):
        return None
    if reason := costly_headers(content):
        raise ValueError(reason)
    every = _directories(BytesIO(content))
    tags = next(every)
    first = {tag: tags[tag] for tag in DECISIVE if tag in tags}
    bands, photometric = int(first.get(BANDS, 1)), first.get(PHOTOMETRIC)
    items = _items(first.get(GDAL_METADATA))
    called = {text.casefold(): number for number, role, text in items if role == "colorinterp"}
    names = {number: text.casefold() for number, role, text in items if role == "colorinterp"}
    extra = first.get(EXTRA, ())
    marked = any(kind in ALPHAS for kind in extra) or (not extra and (bands, photometric) in ((2, 1), (4, RGB)))
    no_data, unclear = _no_data(first.get(GDAL_NODATA))
    pages, masked = _pages(first, every)
    reads = photometric is None or photometric in READ
    return Tags(
        bands=bands,
        bits=int(max(first.get(BITS, (1,)))),
        photometric=photometric,
        alpha=marked and names.get(bands, "alpha") == "alpha",
        signed=SIGNED in first.get(FORMAT, ()),
        no_data=no_data,
        scaled=_scaled(items),
        colours=(called["red"], called["green"], called["blue"]) if {*COLOURS} <= {*called} else None,
        masked=masked,
        unclear=unclear,
        fault=pages or unclear or ("" if reads else f"colours of kind {photometric} in tag 262; convert to RGB"),
    )


def first_directory(file: BinaryIO) -> Mapping[int, Any]:
    """The tags of a TIFF's first image; empty for other files."""
    return next(_directories(file), {})


def is_mask(alpha: npt.NDArray[Any]) -> bool:
    """Whether a band that is marked as alpha hides pixels: near infrared is marked so too, and its values vary."""
    return bool(((alpha == 0) | (alpha == alpha.max())).mean() >= LEAST_OF_MASK)


MOST_PAGES, MOST_TAGS, MOST_PIECES = 256, 1024, 2**18
"""Directories of a TIFF; in one of them, tags, and strips or tiles. Pillow makes a Python object of each, also for a
file that asks for none of its pixels."""
PIECES = ((273, 279), (324, 325))  # tags with the places and bytes of strips, and of tiles


def costly_headers(content: bytes) -> str:
    """Why the headers of a TIFF alone would take a reader minutes or gigabytes; empty for all others.

    It walks from directory to directory, as readers do, and opens no tag. What is damaged is left to them.
    """
    if not content.startswith(TIFF_STARTS):
        return ""
    at, number, counted, entry = _layout(content)
    seen = set[int]()
    try:
        while (begin := number.unpack_from(content, at)[0]) and len(seen) <= MOST_PAGES:
            if begin in seen:
                return "a TIFF whose images come round again; save it again"
            seen.add(begin)
            (count,) = counted.unpack_from(content, begin)
            if count > MOST_TAGS:
                return _of_many_tags(count)
            at = begin + counted.size
            for _ in range(count):
                tag, _, pieces, _ = entry.unpack_from(content, at)
                if pieces > MOST_PIECES and any(tag in pair for pair in PIECES):
                    return f"a TIFF of {pieces} strips or tiles; save it again with larger ones"
                at += entry.size
    except StructError:  # beyond the end
        return ""
    return ""


def _layout(start: bytes) -> tuple[int, Struct, Struct, Struct]:
    """Where the first offset stands in a TIFF that begins so, and three forms: of an offset, of the number of tags in a
    directory, and of a tag (its number, type, number of values, and where they are).
    """
    order = "<" if start.startswith(b"I") else ">"
    if start.startswith(TIFF_STARTS[2:]):
        return 8, Struct(order + "Q"), Struct(order + "Q"), Struct(order + "HHQQ")
    return 4, Struct(order + "I"), Struct(order + "H"), Struct(order + "HHII")


def _of_many_tags(count: int) -> str:
    return f"a TIFF of {count} tags in one image; save it again"


def _directories(file: BinaryIO) -> Iterator[Mapping[int, Any]]:
    """The tags of each of a TIFF's images, one after the other in one object.

    Raises:
        ValueError: an image has more than MOST_TAGS tags.
    """
    start = file.read(8)
    if not start.startswith(TIFF_STARTS):
        return
    start += file.read(8) if start.startswith(TIFF_STARTS[2:]) else b""
    tags = TiffImagePlugin.ImageFileDirectory_v2(start)
    counted = _layout(start)[2]
    while tags.next:
        file.seek(tags.next)
        head = file.read(counted.size)
        if len(head) == counted.size and (count := counted.unpack(head)[0]) > MOST_TAGS:
            raise ValueError(_of_many_tags(count))
        file.seek(tags.next)
        with warnings.catch_warnings(action="ignore"):
            tags.load(file)
        yield tags


def _pages(first: Mapping[int, Any], others: Iterator[Mapping[int, Any]]) -> tuple[str, bool]:
    """What is wrong with a TIFF of several images, and whether one of them is a mask. Overviews change nothing."""
    masked = False
    if first.get(KIND, 0) & REDUCED:
        return "the first image is marked as a reduced one in tag 254; save the whole one as its own file", False
    for number, tags in enumerate(others):
        kind = int(tags.get(KIND, 0))
        if number == MOST_DIRECTORIES or not kind & (REDUCED | MASK):
            return MULTI_PAGE, masked
        masked = masked or not kind & REDUCED
    return "", masked


def _items(metadata: Any) -> list[tuple[int, str, str]]:
    """(number of the band from 1, role, text) of what GDAL notes about bands."""
    found = []
    for described, text in ITEM.findall(metadata if isinstance(metadata, str) else ""):
        attributes = dict(ATTRIBUTE.findall(described))
        if attributes.get("sample", "").isdecimal() and "role" in attributes:
            found.append((int(attributes["sample"]) + 1, attributes["role"].casefold(), text.strip()))
    return found


def _scaled(items: list[tuple[int, str, str]]) -> str:
    """The first scale and offset that change values, or that are no numbers; empty if none do."""
    for band in sorted({number for number, _, _ in items}):
        texts = {role: text for number, role, text in items if number == band and role in ("scale", "offset")}
        scale, offset = texts.get("scale", "1"), texts.get("offset", "0")
        if (_number(scale), _number(offset)) != (1, 0):
            shown = [text if _number(text) is None else f"{_number(text):g}" for text in (scale, offset)]
            return f"scale {printable(shown[0])} and offset {printable(shown[1])}"
    return ""


def _no_data(text: Any) -> tuple[float | None, str]:
    """The value of GDAL's tag, or what is wrong with it."""
    if text is None:
        return None, ""
    stripped = str(text).strip(" \0\n")
    value = _number(stripped)
    if value is None and stripped.casefold() not in ("nan", "-nan"):
        return None, f"the value for no data is {printable(stripped)[:40]!r} in tag 42113; write a number there"
    return (math.nan if value is None else value), ""


def _number(text: str) -> float | None:
    """A number of a tag; None for a text that is none, and for NaN."""
    try:
        value = float(text)
    except ValueError:
        return None
    return None if math.isnan(value) else value
