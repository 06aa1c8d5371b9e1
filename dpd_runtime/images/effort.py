"""What decoding an image file costs beyond its pixels, counted from its bytes before any decoder starts.

A decoder's time is bounded by the pixels and the bytes, except where a few bytes ask for the same pixels or the same
bytes again: scans of a JPEG, each of which goes over the whole image, and strips or tiles of a TIFF that lie on top of
each other. Pillow offers no limit for either.
"""

import io
import re
import warnings

from PIL import TiffImagePlugin

from dpd_runtime.images.tags import TIFF_STARTS

MOST_SCANS = 100
"""Of a JPEG, as in libtiff and GDAL; progressive ones have about ten."""
MOST_SCANNED = 2**29
"""Scans times pixels: a decoder takes a nanosecond or more for each."""
MOST_PAGES = 256
JPEG_START = b"\xff\xd8"
PIECES = ((273, 279), (324, 325))  # tags with the places and bytes of strips, and of tiles
CUT_SHORT = "a TIFF that is cut short"
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # not zeros after 0xff, nor restarts, which stand in coded data
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_SCAN, _END, _BARE = 0xDA, 0xD9, frozenset({0x01, 0xD8})


def excess(content: bytes) -> str:
    """Why an image file would take a decoder far longer than its pixels do; empty for all others."""
    if content.startswith(JPEG_START):
        return _excess_of_jpeg(content)
    if content.startswith(TIFF_STARTS):
        return _excess_of_tiff(content)
    return ""


def _excess_of_jpeg(content: bytes) -> str:
    """Walks from marker to marker, as decoders do, up to the end of the image."""
    at, scans, pixels = len(JPEG_START), 0, 0
    while match := _MARKER.search(content, at):
        kind, at = content[match.end() - 1], match.end()
        if kind == _END:
            break
        if kind in _BARE:
            continue
        if kind in _FRAMES:  # length, bits, height, width
            height, width = (int.from_bytes(content[at + i : at + i + 2], "big") for i in (3, 5))
            pixels = max(pixels, height * width)
        scans += kind == _SCAN
        if scans > MOST_SCANS or scans * pixels > MOST_SCANNED:
            return f"a JPEG of more than {scans - 1} scans of {pixels} pixels; save it again without progressive scans"
        at += max(2, int.from_bytes(content[at : at + 2], "big"))
    return ""


def _excess_of_tiff(content: bytes) -> str:
    """Adds up what the strips and tiles of all pages claim; they would have to share bytes to claim more than all."""
    file = io.BytesIO(content)
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(content[: 16 if content.startswith(TIFF_STARTS[2:]) else 8])
        claimed = 0
        for _ in range(MOST_PAGES):
            if not tags.next:
                break
            file.seek(tags.next)
            with warnings.catch_warnings(action="ignore"):
                tags.load(file)
            pieces = [piece for names in PIECES for piece in zip(*(tags.get(name, ()) for name in names), strict=False)]
            claimed += sum(size for _, size in pieces)
            if claimed > len(content):
                cut = any(begin + size > len(content) for begin, size in pieces)
                return CUT_SHORT if cut else "a TIFF whose strips or tiles share bytes; save it again"
    except Exception:  # damaged tags raise almost any type
        return "a TIFF with damaged tags"
    return ""
