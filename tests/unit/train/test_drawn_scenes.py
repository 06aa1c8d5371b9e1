"""Drawn scenes: repeatable, different from each other, and told apart by colour and shape."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression

from dpd_runtime.errors import InputError
from dpd_train.drawn_scenes import CLASSES, draw_scene, write_scenes
from dpd_train.scenes import read_scenes


def draw(name: str, seed: int, resolution: int = 32) -> np.ndarray:
    return draw_scene(name, np.random.default_rng(seed), resolution)


def test_the_classes() -> None:
    assert sorted(CLASSES) == ["Fields", "Forest", "Houses", "River", "Road", "Water"]


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("resolution", [8, 37, 64])
def test_a_tile_has_the_shape_asked_for_and_structure(name: str, resolution: int) -> None:
    tile = draw(name, 3, resolution)
    assert tile.shape == (resolution, resolution, 3)
    assert tile.dtype == np.uint8
    assert tile.std() > 2
    assert (tile == 255).mean() < 0.05
    assert (tile == 0).mean() < 0.25


@pytest.mark.parametrize("name", CLASSES)
def test_the_generator_decides_and_nothing_else(name: str) -> None:
    np.random.seed(0)
    first = draw(name, 5)
    np.random.seed(1)
    assert np.array_equal(first, draw(name, 5))
    assert np.abs(first.astype(int) - draw(name, 6)).mean() > 1


def test_unknown_names_and_sizes_are_refused() -> None:
    with pytest.raises(InputError, match=r"no scene is called 'Desert'; there are Fields, Forest"):
        draw("Desert", 0)
    with pytest.raises(InputError, match=r"4 pixels is too small; give at least 8"):
        draw("Water", 0, 4)
    with pytest.raises(InputError, match=r"give at least 1"):
        write_scenes(Path("unused"), per_class=0, seed=0)


def test_written_folders_are_read_and_a_larger_set_begins_with_the_smaller(tmp_path: Path) -> None:
    write_scenes(tmp_path / "small", per_class=2, seed=11, resolution=16)
    write_scenes(tmp_path / "large", per_class=3, seed=11, resolution=16)
    write_scenes(tmp_path / "other", per_class=2, seed=12, resolution=16)
    small, other = (read_scenes(tmp_path / name, part="all") for name in ("small", "other"))
    assert small.classes == tuple(sorted(CLASSES))
    assert small.images.shape == (12, 16, 16, 3)
    assert len(set(small.hashes) | set(other.hashes)) == 24
    assert sorted(path.name for path in (tmp_path / "small" / "River").iterdir()) == [
        "River_0000.png",
        "River_0001.png",
    ]
    for path in (tmp_path / "small").rglob("*.png"):
        twin = tmp_path / "large" / path.relative_to(tmp_path / "small")
        assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(twin.read_bytes()).digest()


def test_colours_are_those_of_the_ground() -> None:
    means = {name: np.mean([draw(name, seed).mean((0, 1)) for seed in range(6)], axis=0) for name in CLASSES}
    assert means["Water"].argmax() == 2  # blue
    assert means["Forest"].argmax() == 1  # green
    assert means["Forest"].mean() < means["Fields"].mean() - 20
    assert means["Road"].argmax() == 1


@pytest.mark.full
def test_a_simple_classifier_learns_the_classes() -> None:
    def features(seed: int) -> list[np.ndarray]:
        rows = []
        for label, name in enumerate(CLASSES):
            tile = np.asarray(draw_scene(name, np.random.default_rng([seed, label]), 32), np.float64)
            luma = tile.mean(2)
            lines = np.sort(np.abs(np.fft.rfft2(luma - luma.mean()))[:8, :8].ravel())[::-8]
            steps = np.abs(np.diff(luma)).mean(), np.abs(np.diff(luma, axis=0)).mean(), luma.std()
            quantiles = np.percentile(tile, [5, 25, 50, 75, 95], axis=(0, 1)).ravel()
            rows.append(np.concatenate([quantiles, steps, np.log1p(lines)]))
        return rows

    train = np.array([features(seed) for seed in range(16)]).reshape(-1, 26)
    test = np.array([features(seed) for seed in range(100, 108)]).reshape(-1, 26)
    mean, scale = train.mean(0), train.std(0) + 1e-9
    model = LogisticRegression(max_iter=500).fit((train - mean) / scale, list(range(6)) * 16)
    assert model.score((test - mean) / scale, list(range(6)) * 8) > 0.7  # chance is 0.17
    shuffled = np.random.default_rng(0).permutation(list(range(6)) * 16)
    control = LogisticRegression(max_iter=500).fit((train - mean) / scale, shuffled)
    assert control.score((test - mean) / scale, list(range(6)) * 8) < 0.5


def test_png_files_hold_the_drawn_pixels(tmp_path: Path) -> None:
    write_scenes(tmp_path, per_class=1, seed=4, resolution=16)
    label = CLASSES.index("Road")
    expected = draw_scene("Road", np.random.default_rng([4, label, 0]), 16)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "Road" / "Road_0000.png")), expected)
