"""`dpd train --samples foreground`: what is trained on, what stays as it was, and what the run says of it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dpd_neighbours.foreground.cropping import cropped
from dpd_neighbours.foreground.decisions import cut, decide, salient
from dpd_neighbours.foreground.models import find_models
from dpd_runtime.errors import InputError
from dpd_train.context import read_parts
from dpd_train.reading import HeldOut
from dpd_train.samples import Look
from dpd_train.scenes import open_scenes
from dpd_train.train import train
from tests.squares import write_squares
from tests.tiny import CONFIG, SIDE, tiny_base
from tests.unit.neighbours.segmenter_models import tiny_dino, tiny_sam

LARGE = 2 * SIDE


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of grey textures with a coloured square of 6 to 15 pixels, and a copy of one image."""
    root = write_squares(tmp_path_factory.mktemp("data"), LARGE, 10)
    (root / "Red" / "03 copy.png").write_bytes((root / "Red" / "03.png").read_bytes())
    return root


def test_patches_stand_where_the_rule_cuts_and_validation_stays_whole(data: Path) -> None:
    config = replace(CONFIG, samples="foreground")
    found, plain = (read_parts(open_scenes(data, one), one, SIDE) for one in (config, CONFIG))
    whole = open_scenes(data, HeldOut(val_per_class=2)).part("train")
    rows = [whole.paths.index(path) for path in found.train.paths]
    assert len(rows) == len(whole.paths) - len(found.findings.near) < len(whole.paths)  # left out, then cut
    large = whole.images[rows]
    decisions = decide(large, plain.train.images, found.train.labels, salient(large))
    assert 0 < len(decisions.cut) < len(rows)
    for row, image in enumerate(found.train.images):
        if row in decisions.cut:
            np.testing.assert_array_equal(image, cut(large[row], decisions.boxes[row], SIDE))
            assert found.train.hashes[row] != plain.train.hashes[row]  # a cache of latents must not mix the two
        else:
            np.testing.assert_array_equal(image, plain.train.images[row])
            assert found.train.hashes[row] == plain.train.hashes[row]
    np.testing.assert_array_equal(found.held.images, plain.held.images)
    assert (found.fingerprint, found.findings) == (plain.fingerprint, plain.findings)
    assert plain.taken == ()


def test_a_run_says_what_was_cut_and_keeps_the_picture_private(data: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, base=str(tiny_base(tmp_path)), samples="foreground")
    record = train(data, tmp_path / "run", config, cache=tmp_path / "cache")
    assert record == json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["config"]["samples"] == "foreground"
    assert record["crop"]["foreground"] == "spectral residual"
    assert 0 < record["crop"]["cut"] < record["crop"]["images"] == 17 - record["near_duplicates"]
    assert (tmp_path / "run" / "private" / "decisions.png").is_file()
    assert not list((tmp_path / "run" / "samples").glob("decisions*"))


def test_a_segmenter_decides_in_the_place_of_saliency(data: Path, tmp_path: Path) -> None:
    models = find_models(f"{tiny_dino(tmp_path / 'dino')}+{tiny_sam(tmp_path / 'sam')}")
    opened = open_scenes(data, HeldOut(val_per_class=2))
    scenes = opened.part("train", SIDE)
    told: list[str] = []

    def stage(title: str):  # type: ignore[no-untyped-def]
        return lambda done, total: told.append(f"{title} {done}/{total}")

    look = Look(scenes=opened, train=scenes, seed=0, cache=tmp_path, device="cpu", stage=stage)
    found = cropped(look, models)
    assert found.record["crop"]["foreground"] != cropped(look, None).record["crop"]["foreground"]
    assert told[-1] == f"finding objects {len(scenes.labels)}/{len(scenes.labels)}"
    assert str(tmp_path) not in str(found.record)


def test_images_of_the_models_size_are_refused_before_they_are_decoded(data: Path) -> None:
    opened = open_scenes(data, HeldOut(val_per_class=2))
    with pytest.raises(InputError, match=r"64 px, not more than the 64 px that are wanted: leave foreground out"):
        read_parts(opened, replace(CONFIG, samples="foreground"), LARGE)
