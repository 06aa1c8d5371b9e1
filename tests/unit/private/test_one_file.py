"""A guarantee for one file holds if that file changes no pixel of another."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpd_private.distillation import Opened
from dpd_private.request import PrivateRequest
from dpd_train.reading import HeldOut
from dpd_train.scenes import open_scenes

SIDE = 16


def written(root: Path, masks: int) -> Path:
    """Six images a class with a fourth band, which is a mask in the first `masks` of them."""
    rng = np.random.default_rng(0)
    for name in ("A", "B"):
        (root / name).mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(1, 255, (SIDE, SIDE, 4), np.uint8)
            if number < masks:
                pixels[..., 3] = np.where(np.arange(SIDE) < SIDE // 2, 0, 255)
            Image.fromarray(pixels, "RGBA").save(root / name / f"{number}.png")
    return root


def pixels(root: Path, *, together: bool) -> np.ndarray:
    scenes = replace(open_scenes(root, HeldOut(val_per_class=0)), together=together)
    return scenes.part("train", SIDE).images


@pytest.mark.parametrize("together", [True, False])
def test_one_file_changes_no_pixel_of_another(tmp_path: Path, together: bool) -> None:
    before = pixels(written(tmp_path / "most", 3), together=together)
    others = written(tmp_path / "fewer", 3)
    for name in ("A", "B"):
        rng = np.random.default_rng(1)
        Image.fromarray(rng.integers(1, 255, (SIDE, SIDE, 4), np.uint8), "RGBA").save(others / name / "0.png")
    after = pixels(others, together=together)
    kept = np.arange(12) % 6 > 0
    changed = (before[kept] != after[kept]).any(axis=(1, 2, 3)).sum()
    assert changed == (4 if together else 0), "where files vote, the masks of the others stop being masks"


def test_private_images_are_read_so(tmp_path: Path) -> None:
    data = written(tmp_path / "data", 3)
    asked = PrivateRequest(data=str(data), out=str(tmp_path / "site.dpd"), epsilon=10.0)
    assert not Opened(asked).private.together
