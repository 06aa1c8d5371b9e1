"""Patches as a selection: what is written, what an evaluation takes, what is refused."""

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpd_eval.evaluation import evaluate
from dpd_eval.extractors import own_extractor
from dpd_eval.options import EvaluateConfig
from dpd_eval.recipe import Recipe
from dpd_eval.selection import select_set
from dpd_runtime.errors import InputError
from dpd_runtime.image_folders import DECISIONS_NAME
from dpd_train.scenes import read_scenes
from tests.squares import write_squares

LARGE, SMALL = 64, 24


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of grey textures with a coloured square of 6 to 17 pixels."""
    return write_squares(tmp_path_factory.mktemp("data"), LARGE, 12)


@pytest.fixture(autouse=True)
def quick_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    """`own` after 30 steps instead of 1200."""
    for module in ("dpd_eval.evaluation", "dpd_eval.selection"):
        monkeypatch.setattr(
            import_module(module),
            "build_extractor",
            lambda name, train, *, cache, progress, device="cpu": own_extractor(train, cache, progress, steps=30),
        )


def test_some_images_are_cut_and_a_picture_shows_which(data: Path, tmp_path: Path) -> None:
    select_set(data, tmp_path / "set", method="foreground", ipc=11, resolution=SMALL, cache=tmp_path / "cache")
    about = json.loads((tmp_path / "set" / "dataset.json").read_text(encoding="utf-8"))
    written = read_scenes(tmp_path / "set", part="all")
    whole = read_scenes(data, part="train", resolution=SMALL)
    assert written.images.shape == (22, SMALL, SMALL, 3)
    same = sum(any(np.array_equal(image, one) for one in whole.images) for image in written.images)
    assert 0 < about["cut"] == 22 - same < 22
    with Image.open(tmp_path / "set" / DECISIONS_NAME) as picture:
        assert picture.width > picture.height / 2
    options = {"method": "foreground", "resolution": SMALL, "cache": tmp_path / "cache"}
    again = select_set(data, tmp_path / "set", ipc=4, overwrite=True, **options)  # type: ignore[arg-type]
    assert again.images == 8


@pytest.mark.full
def test_images_of_the_students_size_have_no_patches(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"64 px, not more than the 64 px that are wanted: give a smaller"):
        select_set(data, tmp_path / "set", method="foreground", ipc=2, cache=tmp_path / "cache")
    assert not (tmp_path / "set").exists()


def test_an_evaluation_takes_the_patches_for_this_arm_alone(data: Path, tmp_path: Path) -> None:
    select_set(data, tmp_path / "set", method="foreground", ipc=4, resolution=SMALL, cache=tmp_path / "cache")
    recipe = Recipe(name="tiny", steps=5, batch=8, optimizer="adamw", peak_rate=3e-3)
    config = EvaluateConfig(baselines=("foreground", "random"), ipc=(4,), pairs=2, metrics=False)
    found = evaluate([tmp_path / "set"], config, train=data, test="val", recipe=recipe, cache=tmp_path / "cache")
    arms = {arm.arm: arm.oa_runs for arm in found.arms}
    assert arms["foreground"] == arms["set"]  # the very images that `select` wrote, and the same student seeds
    assert found.teacher is None  # labels are hard
