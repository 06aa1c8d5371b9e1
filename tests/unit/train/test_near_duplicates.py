"""Near duplicates: planted ones are found whatever was done to them, different scenes stay."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dpd_runtime.annotations import Images
from dpd_train import symmetry as module
from dpd_train.drawn_scenes import write_scenes
from dpd_train.scene_set import SceneSet
from dpd_train.scenes import read_scenes
from dpd_train.symmetry import NEAR, near_duplicates, near_groups, orbit, similarities, structure


def jpeg(image: Images) -> Images:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=75)
    return np.asarray(Image.open(file))


CHANGES = {
    "the same pixels": lambda image: image,
    "compressed anew": jpeg,
    "turned": lambda image: np.rot90(image),
    "mirrored and turned": lambda image: np.rot90(image[:, ::-1], 3),
    "brightened": lambda image: np.clip(1.05 * image + 8.0, 0, 255).astype(np.uint8),
    "all of it": lambda image: jpeg(np.rot90(np.clip(image + 6.0, 0, 255).astype(np.uint8)).copy()),
}


def noise(count: int, seed: int) -> Images:
    """Different pictures of smooth colours, 64 px."""
    rng = np.random.default_rng(seed)
    return np.stack(
        [
            np.asarray(Image.fromarray(tile).resize((64, 64), Image.Resampling.BICUBIC))
            for tile in rng.integers(30, 220, (count, 6, 6, 3)).astype(np.uint8)
        ]
    )


def names(images: Images) -> tuple[str, ...]:
    return tuple(str(row) for row in range(len(images)))


@pytest.mark.parametrize("change", CHANGES)
def test_planted_copies_are_found_and_nothing_else(change: str) -> None:
    images = noise(300, 0)  # more than one block
    planted = {300 + i: row for i, row in enumerate((3, 70, 299))}
    everything = np.concatenate([images, np.stack([CHANGES[change](images[row]) for row in planted.values()])])
    assert near_duplicates(everything, names(everything)) == planted


@given(st.integers(0, 200))
@settings(max_examples=6, deadline=None)
def test_the_sketch_overlooks_no_pair(seed: int) -> None:
    """Against every pair written out, on images of which many are nearly alike."""
    rng = np.random.default_rng(seed)
    base = noise(12, seed)[rng.integers(12, size=60)].astype(np.float32)
    images = np.clip(base + rng.normal(0, rng.uniform(2, 30, (60, 1, 1, 1)), base.shape), 0, 255).astype(np.uint8)
    cosines = similarities(orbit(images), structure(images))
    expected: dict[int, int] = {}
    for row in range(60):
        near = [other for other in range(row) if other not in expected and cosines[row, other] > NEAR]
        if near:
            expected[row] = near[0]
    assert expected
    group = list(range(60))
    for row, other in zip(*np.nonzero(np.tril(cosines, -1) > NEAR), strict=True):
        group = [group[other] if number == group[row] else number for number in group]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "AXES", 20)
        patch.setattr(module, "BLOCK", 16)
        assert near_duplicates(images, names(images)) == expected
        assert near_groups(images, names(images)).tolist() == [group.index(number) for number in group]


def test_equal_files_are_near_even_where_nothing_is_to_be_seen() -> None:
    flat = np.full((4, 32, 32, 3), 90, np.uint8)
    assert near_duplicates(flat, ("a", "b", "a", "b")) == {2: 0, 3: 1}
    assert near_groups(flat, ("a", "b", "a", "b")).tolist() == [0, 1, 0, 1]


def test_what_is_near_to_a_left_out_image_alone_stays_but_is_in_its_group() -> None:
    """A ~ B ~ C, but not A ~ C."""
    first, last = noise(2, 5).astype(np.float32)
    steps = np.stack([(1 - w) * first + w * last for w in np.linspace(0, 1, 40)]).round().astype(np.uint8)
    cosines = structure(steps) @ structure(steps).T
    second = int(np.flatnonzero(cosines[0] > NEAR)[-1])
    third = int(np.flatnonzero(cosines[second] > NEAR)[-1])
    assert cosines[0, third] < NEAR
    chain = steps[[0, second, third]]
    assert near_duplicates(chain, names(chain)) == {1: 0}
    for order in ([0, 1, 2, 3], [3, 2, 0, 1], [1, 3, 0, 2]):  # 3 is another picture
        shown = np.concatenate([chain, noise(1, 9)])[order]
        expected = [order.index(3) if row == 3 else min(map(order.index, range(3))) for row in order]
        assert near_groups(shown, names(shown)).tolist() == expected
    assert near_groups(chain, ("a", "b", "a")).tolist() == [0, 0, 0]


@pytest.mark.full
def test_drawn_scenes_are_all_different(tmp_path: Path) -> None:
    write_scenes(tmp_path, per_class=20, seed=0, resolution=64)
    scenes = read_scenes(tmp_path, part="all", resolution=64)
    assert near_duplicates(scenes.images, scenes.hashes) == {}
    assert near_groups(scenes.images, scenes.hashes).tolist() == list(range(len(scenes.images)))


def test_only_keeps_the_rows_everywhere() -> None:
    images = noise(4, 0)
    scenes = SceneSet(("a", "b"), images, np.array([0, 0, 1, 1]), tuple("wxyz"), (), ("0", "1", "2", "3"))
    kept = scenes.only([0, 3])
    np.testing.assert_array_equal(kept.images, images[[0, 3]])
    assert (kept.labels.tolist(), kept.hashes, kept.paths) == ([0, 1], ("w", "z"), ("0", "3"))
    assert replace(scenes, paths=()).only([1]).paths == ()
