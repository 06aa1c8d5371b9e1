"""Foreground patches: saliency on drawn objects, candidates against every window, decisions on known masks."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dpd_neighbours.foreground.decisions import CANDIDATES, MAP, PATCH, STRIDE, candidate_boxes, cut, decide, salient

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
    found = [(y, x) for y, x, _ in candidate_boxes(mask, MAP).tolist()]
    assert len(set(found)) == CANDIDATES
    others = [count for corner, count in held.items() if corner not in found]
    assert min(held[corner] for corner in found) >= max(others)
    assert [held[corner] for corner in found] == sorted((held[corner] for corner in found), reverse=True)
    np.testing.assert_array_equal(candidate_boxes(mask, 4 * MAP), 4 * candidate_boxes(mask, MAP))


def shrunk(images: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    return np.stack([np.asarray(Image.fromarray(image).resize((side, side))) for image in images])


def test_small_objects_are_cut_out_and_large_ones_stay_whole() -> None:
    images = np.stack([scene(8, 8, 12), scene(100, 100, 12), scene(30, 30, 60), scene(40, 20, 60)])
    masks = np.zeros((4, MAP, MAP), bool)
    for mask, (top, left, side) in zip(masks, ((4, 4, 6), (50, 50, 6), (15, 15, 30), (20, 10, 30)), strict=True):
        mask[top : top + side, left : left + side] = True
    labels, small = np.zeros(4, np.int64), shrunk(images, 64)
    asked = []

    def brightness(patches: NDArray[np.uint8], wanted: NDArray[np.int64]) -> NDArray[np.float32]:
        assert patches.shape == (len(wanted), 64, 64, 3)
        asked.append(len(wanted))
        return patches.mean(axis=(1, 2, 3), dtype=np.float32)

    found = decide(images, small, labels, masks, brightness)
    assert sorted(asked) == [2, 2 * CANDIDATES]  # each patch is judged once
    np.testing.assert_allclose(found.occupancy, masks.mean(axis=(1, 2)))
    assert found.thresholds.tolist() == [np.median(found.occupancy)]
    assert found.cut.tolist() == [0, 1]
    assert found.boxes[2:].tolist() == [[0, 0, 128]] * 2
    np.testing.assert_array_equal(found.images[2:], small[2:])
    for row, corner in enumerate((8, 100)):
        top, left, size = found.boxes[row]
        assert size == 64
        assert top <= corner < corner + 12 <= top + size
        assert left <= corner < corner + 12 <= left + size
        np.testing.assert_array_equal(found.images[row], images[row, top : top + size, left : left + size])
    np.testing.assert_array_equal(found.sure, brightness(found.images, labels))


def test_the_surest_patch_is_taken_and_without_a_teacher_the_fullest() -> None:
    images, masks = np.stack([scene(0, 0, 40), scene(0, 0, 90)]), np.zeros((2, MAP, MAP), bool)
    masks[0, :40, :40], masks[1] = True, True
    candidates = candidate_boxes(masks[0], 128).tolist()
    small, labels = shrunk(images, 32), np.zeros(2, np.int64)

    def sure_of_the_last(patches: NDArray[np.uint8], wanted: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.arange(len(patches), dtype=np.float32)

    assert decide(images, small, labels, masks, sure_of_the_last).boxes[0].tolist() == candidates[-1]
    assert decide(images, small, labels, masks).boxes[0].tolist() == candidates[0]


def test_an_image_without_foreground_is_cut_where_a_teacher_says_which_patch() -> None:
    """Occupancies 0, 0.1, 0.2 and 0.4."""
    images, masks = np.stack([scene(0, 72, 20)] * 4), np.zeros((4, MAP * MAP), bool)
    masks[1, :400], masks[2, :800], masks[3, :1600] = True, True, True
    masks = masks.reshape(4, MAP, MAP)
    small, labels = shrunk(images, 32), np.zeros(4, np.int64)

    def brightness(patches: NDArray[np.uint8], wanted: NDArray[np.int64]) -> NDArray[np.float32]:
        return patches.mean(axis=(1, 2, 3), dtype=np.float32)

    found = decide(images, small, labels, masks, brightness)
    assert found.thresholds.tolist() == [np.median(found.occupancy)]
    assert found.cut.tolist() == [0, 1]
    assert found.boxes[0].tolist() == [0, 32, 64]  # the first along the top that holds all of the square
    assert decide(images, small, labels, masks).cut.tolist() == [1]


def test_a_class_in_which_nothing_is_found_stays_whole() -> None:
    images = np.stack([scene(0, 0, 40)] * 2)
    found = decide(images, shrunk(images, 32), np.zeros(2, np.int64), np.zeros((2, MAP, MAP), bool))
    assert (found.thresholds.tolist(), found.cut.tolist()) == ([0.0], [])


def test_a_cut_is_pillows_crop_and_resize() -> None:
    image = scene(10, 20, 30)
    expected = Image.fromarray(image).crop((16, 8, 80, 72)).resize((32, 32), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(cut(image, np.array([8, 16, 64]), 32), np.asarray(expected))
