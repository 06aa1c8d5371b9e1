"""Public images that stand beside the private ones: drawn scenes, images of a folder, and how watchers see them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dpd_private import public
from dpd_private.limited_watchers import limited_watchers
from dpd_train.drawn_scenes import numbered_scene
from dpd_train.scene_set import to_float
from dpd_train.scenes import open_scenes
from tests.unit.train.test_matching import network

WIDTH = 12


def test_drawn_scenes_stand_in_for_public_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(public, "DRAWN", 2)
    scenes = public.drawn_images(16, 3)
    assert (scenes.images.shape, scenes.labels.tolist()) == ((12, 16, 16, 3), [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5])
    assert np.array_equal(scenes.images[5], numbered_scene(2, 1, 3, 16))


def test_larger_public_images_come_whole_and_in_crops_which_stay_on_one_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for label, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        for index in range(2):
            Image.fromarray(numbered_scene(label, index, 0, 64)).save(tmp_path / name / f"{index}.png")
    whole, all_sizes = (public.read_public(open_scenes(tmp_path), side, 0) for side in (64, 16))
    assert (len(whole.labels), len(all_sizes.labels)) == (4, 4 * (1 + 4 + 8))
    assert all_sizes.images.shape[1:] == (16, 16, 3)
    assert set(whole.hashes) < set(all_sizes.hashes), "so that a private image among them is still found"
    assert np.bincount(public._numbers(all_sizes)).tolist() == [13] * 4
    assert all_sizes.labels[public._numbers(all_sizes) == 2].tolist() == [1] * 13
    monkeypatch.setattr(public, "MOST", 3 * 13)
    some = public.read_public(open_scenes(tmp_path), 16, 0)
    assert len(some.labels) == 3 * 13
    assert set(some.hashes) < set(all_sizes.hashes)
    monkeypatch.setattr(public, "MOST", 3)
    assert len(public.read_public(open_scenes(tmp_path), 64, 0).labels) == 3


@pytest.mark.full
def test_appearances_of_public_images_vary_alike_in_all_directions() -> None:
    images = torch.stack([to_float(torch.from_numpy(numbered_scene(i % 5, i, 3, 32))[None])[0] for i in range(160)])
    watcher = limited_watchers([network(1)], images, torch.arange(160) % 5, 5, WIDTH, 1).of[-1]
    z = replace(watcher, standard=replace(watcher.standard, limit=None)).z(images)
    values = torch.linalg.eigvalsh(z.T @ z / len(z))
    assert float(values.max()) <= 1 + 1e-3
    assert float(values.min()) > 0.1  # 0.006 with the values as they are, and 12 the largest
