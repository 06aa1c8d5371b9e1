"""The contact sheet of a set: one labelled row for each class."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dpd_runtime.annotations import Pixels

GAP, SIZE = 2, 64
MOST_ROWS, LONGEST_LABEL = 100, 40


def tile(pixels: Pixels, size: int = SIZE) -> Pixels:
    """An image as the contact sheet shows it, uint8 [size, size, 3]. A tile itself does not change."""
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.LANCZOS))


def contact_sheet(rows: Sequence[tuple[str, Sequence[Pixels]]], size: int = SIZE) -> Pixels:
    """A picture, uint8 [H, W, 3], with a row for each (class name, images). Each image has `size` × `size` pixels.

    It shows the first MOST_ROWS classes, as a bundle may have ten thousand, and LONGEST_LABEL letters of each name.
    """
    rows = [(name[:LONGEST_LABEL], [tile(pixels, size) for pixels in images]) for name, images in rows[:MOST_ROWS]]
    font = ImageFont.load_default(size=12)
    label_width = 8 + max(int(font.getlength(name)) for name, _ in rows)
    columns = max(len(images) for _, images in rows)
    width, height = label_width + columns * (size + GAP), len(rows) * (size + GAP) + GAP
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (name, images) in enumerate(rows):
        top = GAP + i * (size + GAP)
        draw.text((4, top + size // 2), name, fill="black", font=font, anchor="lm")
        for j, pixels in enumerate(images):
            sheet.paste(Image.fromarray(pixels), (label_width + j * (size + GAP), top))
    return np.asarray(sheet)
