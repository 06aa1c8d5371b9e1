"""Scenes of two classes that differ in the colour of a small object."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_squares(root: Path, side: int, images: int) -> Path:
    """In `root` class folders of `images` grey textures of `side` pixels, each with a coloured square of 6 and more."""
    rng = np.random.default_rng(0)
    for name, colour in (("Blue", (30, 60, 250)), ("Red", (250, 40, 30))):
        (root / name).mkdir()
        for i in range(images):
            pixels = rng.integers(100, 104, (side, side, 3), dtype=np.uint8)
            square = 6 + i
            top, left = rng.integers(0, side - square, 2)
            pixels[top : top + square, left : left + square] = colour
            Image.fromarray(pixels).save(root / name / f"{i:02d}.png")
    return root
