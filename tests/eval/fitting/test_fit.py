"""`fit` trains what an evaluation trains, and measures it on images that it did not see."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import binomtest

from dpd_eval.fitting.checks import check_fit
from dpd_eval.fitting.config import FitConfig
from dpd_eval.fitting.fit import fit
from dpd_eval.students.recipe import load_recipe
from dpd_eval.students.training import predict, train_student
from dpd_runtime.errors import DataError, InputError
from dpd_train.held_out import HeldOut
from dpd_train.images import read_scenes
from tests.eval.fitting.test_backbone import write_vit

RECIPE = """
steps = 40
batch = 8
optimizer = "adamw"
peak_rate = 3e-3
warmup = 4
"""


def write_set(root: Path, per_class: int, side: int = 24, seed: int = 0, names: tuple[str, ...] = ("A", "B")) -> Path:
    """Class folders of noise around two colours."""
    rng = np.random.default_rng(seed)
    for name in names:
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = rng.normal(70 if name == "A" else 180, 40, (side, side, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i:02d}.png")
    return root


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "short.toml"
    path.write_text(RECIPE)
    return str(path)


def test_it_is_the_student_of_an_evaluation(tmp_path: Path, recipe: str) -> None:
    folder = write_set(tmp_path / "set", 8)
    scenes = read_scenes(folder, part="all")
    fitted = fit(folder, FitConfig(recipe=recipe, seed=3))
    student = train_student("convnet", scenes.images, scenes.labels, 2, load_recipe(recipe), 3)
    for found, expected in zip(fitted.network.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert fitted.validation == {}
    assert (fitted.classes, fitted.side) == (("A", "B"), 24)


def test_own_images_train_too_and_others_of_them_measure(tmp_path: Path, recipe: str) -> None:
    folder, own = write_set(tmp_path / "set", 8), write_set(tmp_path / "own", 10, side=30, seed=1)
    fitted = fit(folder, FitConfig(recipe=recipe, val_per_class=4), own=own)
    assert fitted.training["set"]["images"] == 16
    assert fitted.training["own"]["images"] == 12
    held = read_scenes(own, part="val", resolution=24, held_out=HeldOut(val_per_class=4))
    right = int((predict(fitted.network, held.images, "fp32") == held.labels).sum())
    ends = binomtest(right, 8).proportion_ci(method="wilson")
    assert fitted.validation["images"] == 8
    assert fitted.validation["oa"] == pytest.approx(right / 8, abs=1e-4)
    assert fitted.validation["low"] == pytest.approx(ends.low, abs=1e-4)
    assert fitted.validation["high"] == pytest.approx(ends.high, abs=1e-4)
    assert fitted.validation["oa"] > 0.8, "two colours are easy"


def test_a_backbone_is_probed_and_then_tuned(tmp_path: Path, recipe: str) -> None:
    folder, own = write_set(tmp_path / "set", 8), write_set(tmp_path / "own", 10, seed=1)
    vit = write_vit(tmp_path / "vit")
    probed = fit(folder, FitConfig(recipe=recipe, backbone=str(vit), steps=0), own=own)
    tuned = fit(folder, FitConfig(recipe=recipe, backbone=str(vit), steps=3), own=own)
    bodies = [
        dict(fitted.network.model.model.vit.named_parameters())["layernorm.weight"].detach()
        for fitted in (probed, tuned)
    ]
    assert torch.equal(bodies[0], torch.ones(16)), "a probe leaves the body alone"
    assert not torch.equal(*bodies)
    assert float((bodies[0] - bodies[1]).abs().max()) < 3 * 3e-3 / 30 * 1.01, "a thirtieth of the recipe's rate"
    assert probed.validation["oa"] == tuned.validation["oa"] == 1


def test_images_that_were_trained_on_measure_nothing(tmp_path: Path, recipe: str) -> None:
    folder = write_set(tmp_path / "set", 6)
    with pytest.raises(DataError, match=r"4 of the images that are held out are also in .*set, so they would"):
        fit(folder, FitConfig(recipe=recipe, val_per_class=2), own=folder)


def test_no_images_are_held_out_where_none_are_wanted(tmp_path: Path, recipe: str) -> None:
    folder, own = write_set(tmp_path / "set", 4), write_set(tmp_path / "own", 4, seed=1)
    fitted = fit(folder, FitConfig(recipe=recipe, val_per_class=0, steps=2), own=own)
    assert fitted.validation == {}
    assert fitted.training["own"]["images"] == 8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"student": "convnet", "backbone": "x"}, "--student and --backbone: a model has one network"),
        ({"steps": 0}, "--steps is 0: give at least 1"),
        ({"seed": -1}, "--seed is -1"),
        ({"backbone": "x", "steps": -1}, "--steps is -1: give at least 0"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        FitConfig(**options)  # type: ignore[arg-type]


def test_what_cannot_be_fitted_is_said_before_anything_is_trained(tmp_path: Path) -> None:
    folder, own = write_set(tmp_path / "set", 4), write_set(tmp_path / "own", 4, names=("A", "C"))
    with pytest.raises(DataError, match=r"its classes are not those of .*, first B; name the class folders alike"):
        check_fit(folder, FitConfig(), own)
    with pytest.raises(InputError, match="are for --own images; give some"):
        check_fit(folder, FitConfig(val_per_class=3), None)
    with pytest.raises(InputError, match="no student 'convnot'"):
        check_fit(folder, FitConfig(student="convnot"), None)
    with pytest.raises(InputError, match=r"no such folder"):
        check_fit(folder, FitConfig(backbone=str(tmp_path / "none")), None)
    with pytest.raises(InputError, match="no recipe 'fast'"):
        check_fit(folder, FitConfig(recipe="fast"), None)
    Image.new("RGB", (40, 40)).save(folder / "A" / "x.png")
    with pytest.raises(DataError, match="has images of 2 sizes; give --resolution"):
        check_fit(folder, FitConfig(), None)
    check_fit(folder, FitConfig(resolution=24), None)
    for path in (folder / "B").iterdir():
        path.unlink()
    (folder / "B").rmdir()
    with pytest.raises(DataError, match="holds one class only"):
        check_fit(folder, FitConfig(), None)
    (tmp_path / "flat").mkdir()
    with pytest.raises(DataError, match="holds no class folders"):
        check_fit(tmp_path / "flat", FitConfig(), None)
