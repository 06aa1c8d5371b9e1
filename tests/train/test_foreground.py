"""Foreground patches: saliency on drawn objects, candidates against every window, decisions on known masks."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dpd_train.foreground import CANDIDATES, MAP, PATCH, STRIDE, candidate_corners, cut, decide, salient

SIZE = int(MAP * PATCH)


def scene(top: int, left: int, side: int, seed: int = 0) -> NDArray[np.uint8]:
    """A grey texture [128, 128, 3] with one bright square."""
    image = np.random.default_rng(seed).integers(96, 112, (128, 128, 3), dtype=np.uint8)
    image[top : top + side, left : left + side] = 240
    return image


@pytest.mark.parametrize(("top", "left"), [(8, 8), (60, 90), (100, 20)])
def test_what_stands_out_is_foreground(top: int, left: int) -> None:
    mask = salient(scene(top, left, 16)[None])[0]
    rows, columns = np.nonzero(mask)
    assert 0 < mask.mean() < 0.25
    assert abs(rows.mean() - (top + 8) / 2) < 4  # a cell of the map is two pixels
    assert abs(columns.mean() - (left + 8) / 2) < 4


def test_candidates_hold_more_foreground_than_any_other_window() -> None:
    mask = np.random.default_rng(1).random((MAP, MAP)) < np.linspace(0, 0.6, MAP)
    held = {
        (y, x): int(mask[y : y + SIZE, x : x + SIZE].sum())
        for y in range(0, MAP - SIZE + 1, STRIDE)
        for x in range(0, MAP - SIZE + 1, STRIDE)
    }
    found = candidate_corners(mask)
    assert len(set(found)) == CANDIDATES
    others = [count for corner, count in held.items() if corner not in found]
    assert min(held[corner] for corner in found) >= max(others)


def test_small_objects_are_cut_out_and_large_ones_stay_whole() -> None:
    images = np.stack([scene(8, 8, 12), scene(100, 100, 12), scene(30, 30, 60), scene(40, 20, 60)])
    masks = np.zeros((4, MAP, MAP), bool)
    for mask, (top, left, side) in zip(masks, ((4, 4, 6), (50, 50, 6), (15, 15, 30), (20, 10, 30)), strict=True):
        mask[top : top + side, left : left + side] = True
    labels = np.zeros(4, np.int64)

    def brightness(patches: NDArray[np.uint8], wanted: NDArray[np.int64]) -> NDArray[np.float32]:
        assert patches.shape == (2 * CANDIDATES, 64, 64, 3)
        assert len(wanted) == len(patches)
        return patches.mean(axis=(1, 2, 3), dtype=np.float32)

    found = decide(images, labels, masks, brightness, 64)
    np.testing.assert_allclose(found.occupancy, masks.mean(axis=(1, 2)))
    assert found.thresholds.tolist() == [np.median(found.occupancy)]
    assert found.boxes[2:].tolist() == [[0, 0, 128]] * 2
    for box, corner in zip(found.boxes[:2], (8, 100), strict=True):
        top, left, size = box
        assert size == 64
        assert top <= corner < corner + 12 <= top + size
        assert left <= corner < corner + 12 <= left + size


def test_the_surest_patch_is_taken() -> None:
    images, masks = np.stack([scene(0, 0, 40), scene(0, 0, 90)]), np.zeros((2, MAP, MAP), bool)
    masks[0, :40, :40], masks[1] = True, True
    corners = candidate_corners(masks[0])

    def sure_of_the_last(patches: NDArray[np.uint8], wanted: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.arange(len(patches), dtype=np.float32)

    found = decide(images, np.zeros(2, np.int64), masks, sure_of_the_last, 32)
    assert (found.boxes[0, :2] // 2).tolist() == list(corners[-1])


def test_a_cut_is_pillows_crop_and_resize() -> None:
    image = scene(10, 20, 30)
    expected = Image.fromarray(image).crop((16, 8, 80, 72)).resize((32, 32), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(cut(image, np.array([8, 16, 64]), 32), np.asarray(expected))
