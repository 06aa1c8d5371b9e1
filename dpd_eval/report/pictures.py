"""Images in the page: contact sheets of each class as data URIs."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from dpd_runtime.annotations import Pixels

COLUMNS, LARGEST_TILE, GAP = 5, 96, 2
GROUND = (154, 163, 173)  # between the tiles: a grey that suits light and dark pages


@dataclass(frozen=True)
class Picture:
    uri: str
    width: int
    height: int


def class_sheet(images: Sequence[Pixels]) -> Picture:
    """Arrange images [H, W, 3] in rows of five, each reduced to at most 96 pixels per side."""
    side = min(LARGEST_TILE, max(max(image.shape[:2]) for image in images))
    columns = min(COLUMNS, len(images))
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (side + GAP) - GAP, rows * (side + GAP) - GAP), GROUND)
    for i, pixels in enumerate(images):
        tile = Image.fromarray(pixels)
        if max(tile.size) != side:
            tile.thumbnail((side, side), Image.Resampling.LANCZOS)
        sheet.paste(tile, (i % columns * (side + GAP), i // columns * (side + GAP)))
    return embed(sheet)


def embed(image: Image.Image) -> Picture:
    """Encode as JPEG at quality 92 without chroma subsampling: a quarter of PNG's size without visible differences."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="JPEG", quality=92, subsampling=0)
    uri = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(uri, image.width, image.height)
