"""`fit` trains what an evaluation trains, and measures it on images that it did not see."""

import json
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import binomtest
from torch import nn

from dpd_distill.api import predict as predict_folder
from dpd_distill.fitting import fit_classifier
from dpd_eval.backbones import Backbone
from dpd_eval.fit import fit, held_out_of_set
from dpd_eval.inputs import open_fit
from dpd_eval.options import FitConfig
from dpd_eval.recipe import load_recipe
from dpd_eval.sets import open_set
from dpd_eval.students import predict, train_student
from dpd_runtime.errors import BundleError, DataError, InputError
from dpd_train.published import read_colours
from dpd_train.reading import PLAIN, HeldOut, parse_reading
from dpd_train.scenes import open_scenes, read_scenes
from tests.unit.eval.test_backbone import write_vit

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
    fitted = fit(open_fit(folder, FitConfig(recipe=recipe, seed=3)))
    student = train_student("convnet", scenes.images, scenes.labels, 2, load_recipe(recipe), 3)
    for found, expected in zip(fitted.network.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert fitted.validation == {}
    assert (fitted.classes, fitted.side) == (("A", "B"), 24)


def test_without_own_images_a_second_training_is_measured_on_others_of_the_set(tmp_path: Path, recipe: str) -> None:
    folder = write_set(tmp_path / "set", 15)
    config = FitConfig(recipe=recipe, seed=3)
    found = fit(open_fit(folder, config)).training["set_check"]
    scenes = read_scenes(folder, part="all")
    held = held_out_of_set(scenes, {})
    assert held is not None
    assert np.bincount(scenes.labels[held]).tolist() == [3, 3]
    short = replace(load_recipe(recipe), steps=10)
    student = train_student("convnet", scenes.images[~held], scenes.labels[~held], 2, short, 3)
    right = int((predict(student.eval(), scenes.images[held], "fp32") == scenes.labels[held]).sum())
    ends = binomtest(right, 6).proportion_ci(method="wilson")
    assert (found["images"], found["steps"]) == (6, 10)
    assert [found[name] for name in ("oa", "low", "high")] == pytest.approx([right / 6, ends.low, ends.high], abs=1e-4)


@pytest.mark.parametrize(("of_class", "held_out"), [(1, None), (2, None), (3, 2)])
def test_a_set_of_few_images_is_measured_if_two_of_each_class_are_left(
    of_class: int, held_out: int | None, tmp_path: Path, recipe: str
) -> None:
    found = fit(open_fit(write_set(tmp_path / "set", of_class), FitConfig(recipe=recipe, steps=2))).training
    assert found.get("set_check", {}).get("images") == held_out


@pytest.mark.full
def test_labels_by_chance_are_not_reported_as_learned(tmp_path: Path, recipe: str) -> None:
    folder = write_set(tmp_path / "set", 60)
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        path.rename(path.with_name(f"x{number}.png"))
    for path in sorted(folder.rglob("*.png"))[::2]:  # every second image into the other folder
        path.rename(folder / ("B" if path.parent.name == "A" else "A") / path.name)
    found = fit(open_fit(folder, FitConfig(recipe=recipe, steps=400))).training["set_check"]
    assert found["images"] == 24
    assert found["low"] < 0.5 < found["high"] + 0.1, "as by chance, however well the training images are known"


def test_images_of_one_prototype_and_near_duplicates_stay_on_one_side(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 20)
    lines = [
        {"file_name": f"{name}/{i:02d}.png", "class": name, "prototype": i % 5}
        for name in ("A", "B")
        for i in range(20)
    ]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    scenes = read_scenes(folder, part="all")
    held = held_out_of_set(scenes, open_set(folder).prototypes)
    assert held is not None
    sides = defaultdict(set)
    for path, side in zip(scenes.paths, held.tolist(), strict=True):
        sides[path[0], int(path[2:4]) % 5].add(side)
    assert [len(found) for found in sides.values()] == [1] * 10
    assert held.sum() == 8, "one of five prototypes of each class"
    alone = held_out_of_set(scenes, {})
    assert alone is not None
    assert len({i % 5 for i in np.flatnonzero(alone)}) > 2, "the control: without prototypes they are mixed"
    everything = dict.fromkeys(scenes.paths, 0)
    assert held_out_of_set(scenes, everything) is None
    (folder / "metadata.jsonl").write_text("{")
    with pytest.raises(InputError, match=r"metadata.jsonl: line 1 is damaged"):
        _ = open_set(folder).prototypes


def test_own_images_train_too_and_others_of_them_measure(tmp_path: Path, recipe: str) -> None:
    folder, own = write_set(tmp_path / "set", 8), write_set(tmp_path / "own", 10, side=30, seed=1)
    fitted = fit(open_fit(folder, FitConfig(recipe=recipe, val_per_class=4), own))
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
    probed = fit(open_fit(folder, FitConfig(recipe=recipe, backbone=str(vit), steps=0), own))
    again = fit(open_fit(folder, FitConfig(recipe=recipe, backbone=str(vit), steps=0))).training["set_check"]
    assert again["steps"] == 0
    assert again["images"] > 1
    tuned = fit(open_fit(folder, FitConfig(recipe=recipe, backbone=str(vit), steps=3), own))
    bodies = [
        dict(fitted.network.model.model.vit.named_parameters())["layernorm.weight"].detach()
        for fitted in (probed, tuned)
    ]
    assert torch.equal(bodies[0], torch.ones(16)), "a probe leaves the body alone"
    assert not torch.equal(*bodies)
    assert float((bodies[0] - bodies[1]).abs().max()) < 3 * 3e-3 * 1.01, "the recipe's rate"
    assert probed.validation["oa"] == tuned.validation["oa"] == 1


def test_a_backbone_that_the_site_cannot_run_is_refused_before_its_training(
    tmp_path: Path, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ranked(nn.Module):
        """A last layer on cumulative products, which ONNX writes as an operator that no bundle needs."""

        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.last(torch.cumprod(x.mean((2, 3)), 1))
            return logits

    vit, shown = write_vit(tmp_path / "vit"), list[int]()
    inputs = open_fit(write_set(tmp_path / "set", 4), FitConfig(recipe=recipe, backbone=str(vit), steps=3))
    colours = read_colours(vit, "x")
    monkeypatch.setattr("dpd_eval.fit.open_backbone", lambda source, classes: Backbone(Ranked(), colours))
    with pytest.raises((InputError, BundleError), match=r"cannot be written as ONNX|operator"):
        fit_classifier(inputs, tmp_path / "model", progress=lambda done, total: shown.append(done))
    assert shown == []


def test_images_that_were_trained_on_measure_nothing(tmp_path: Path, recipe: str) -> None:
    folder = write_set(tmp_path / "set", 6)
    with pytest.raises(DataError, match=r"4 of the images that are held out are also in .*set, so they would"):
        fit(open_fit(folder, FitConfig(recipe=recipe, val_per_class=2), folder))


def test_held_out_images_are_not_among_the_own_ones_that_train(tmp_path: Path, recipe: str) -> None:
    folder, own = write_set(tmp_path / "set", 6, seed=1), tmp_path / "own"
    write_set(own / "train", 6)
    write_set(own / "val", 6, seed=2)
    for number in range(2):
        (own / "val" / "A" / f"{number:02d}.png").write_bytes((own / "train" / "A" / f"{number:02d}.png").read_bytes())
    with pytest.raises(DataError, match=r"held out: 2 of its 12 images are training images of the others; put others"):
        fit(open_fit(folder, FitConfig(recipe=recipe, steps=2), own=own))


def test_files_that_are_left_out_and_copies_are_told(
    tmp_path: Path, recipe: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder, own = write_set(tmp_path / "set", 6, seed=1), write_set(tmp_path / "own", 12)
    (folder / "A" / "00.png").write_bytes(b"cut")
    (own / "B" / "x.png").write_bytes(b"cut")
    (own / "B" / "y.png").write_bytes((own / "A" / "00.png").read_bytes())
    fit(open_fit(folder, FitConfig(recipe=recipe, steps=2, val_per_class=2), own=own))
    said = " ".join(caplog.messages)
    assert "1 file of the set left out, first A/00.png" in said
    assert "1 file of --own left out, first B/x.png" in said or "1 file of the held-out part of --own left out" in said
    assert "under two classes at once, byte for byte" in said or "shares 1 image with --own, byte for byte" in said


def test_a_class_that_a_classifier_cannot_have_is_said_before_it_is_trained(tmp_path: Path) -> None:
    for name in ("LCZ 1: Compact", "+x", "Urban."):
        folder = write_set(tmp_path / f"set{len(name)}", 2, names=("A", name))
        with pytest.raises(DataError, match=f"a classifier cannot have a class called '{re.escape(name)}'.*; rename"):
            open_fit(folder, FitConfig())


def test_a_set_with_parts_is_refused_as_all_of_it_would_be_trained_on(tmp_path: Path) -> None:
    write_set(tmp_path / "data" / "train", 4)
    write_set(tmp_path / "data" / "test", 4, seed=1)
    with pytest.raises(DataError, match=r"data: has the parts train, test, and all of a set is trained on; give the"):
        open_fit(tmp_path / "data", FitConfig())


def test_damage_that_the_check_would_meet_is_said_before_the_training(tmp_path: Path, recipe: str) -> None:
    folder = write_set(tmp_path / "set", 15)
    (folder / "metadata.jsonl").write_text('{"file_name": "A/00.png", "prot')
    told = list[int]()
    with pytest.raises(InputError, match=r"metadata\.jsonl: line 1 is damaged"):
        fit(open_fit(folder, FitConfig(recipe=recipe)), progress=lambda done, total: told.append(done))
    assert not told


def test_no_images_are_held_out_where_none_are_wanted(tmp_path: Path, recipe: str) -> None:
    folder, own = write_set(tmp_path / "set", 4), write_set(tmp_path / "own", 4, seed=1)
    fitted = fit(open_fit(folder, FitConfig(recipe=recipe, val_per_class=0, steps=2), own))
    assert fitted.validation == {}
    assert fitted.training["own"]["images"] == 8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"student": "convnet", "backbone": "x"}, "--student and --backbone: a model has one network"),
        ({"steps": 0}, "--steps is 0: give at least 1"),
        ({"seed": -1}, "--seed is -1"),
        ({"seed": 2**32}, "--seed is 4294967296: it must be 0"),
        ({"backbone": "x", "steps": -1}, "--steps is -1: give at least 0"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        FitConfig(**options)  # type: ignore[arg-type]


def test_what_cannot_be_fitted_is_said_before_anything_is_trained(tmp_path: Path) -> None:
    folder, own = write_set(tmp_path / "set", 4), write_set(tmp_path / "own", 4, names=("A", "C"))
    with pytest.raises(DataError, match=r"its classes differ from those of .*set: missing B; additional C"):
        open_fit(folder, FitConfig(), own)
    with pytest.raises(InputError, match="are for --own images; give some"):
        open_fit(folder, FitConfig(val_per_class=3))
    with pytest.raises(InputError, match="no student 'convnot'"):
        open_fit(folder, FitConfig(student="convnot"))
    with pytest.raises(InputError, match=r"no such folder"):
        open_fit(folder, FitConfig(backbone=str(tmp_path / "none")))
    with pytest.raises(InputError, match="no recipe 'fast'"):
        open_fit(folder, FitConfig(recipe="fast"))
    Image.new("RGB", (40, 40)).save(folder / "A" / "x.png")
    with pytest.raises(DataError, match="has images of 2 sizes; give --resolution"):
        open_fit(folder, FitConfig())
    open_fit(folder, FitConfig(resolution=24))
    for path in (folder / "B").iterdir():
        path.unlink()
    (folder / "B").rmdir()
    with pytest.raises(DataError, match="holds one class only"):
        open_fit(folder, FitConfig())
    (tmp_path / "flat").mkdir()
    with pytest.raises(DataError, match="holds no class folders"):
        open_fit(tmp_path / "flat", FitConfig())


def test_held_out_images_are_found_in_the_set_however_they_are_read(tmp_path: Path, recipe: str) -> None:
    folder = write_set(tmp_path / "set", 8)
    for reading in (PLAIN, parse_reading(None, "0:200")):
        with pytest.raises(DataError, match="of the images that are held out are also in"):
            fit(open_fit(folder, FitConfig(recipe=recipe), open_scenes(folder, reading=reading)))


def test_a_classifier_says_how_own_images_were_read(tmp_path: Path, recipe: str) -> None:
    folder, own = write_set(tmp_path / "set", 8), write_set(tmp_path / "own", 10, seed=1)
    opened = open_scenes(own, reading=parse_reading(None, "0:200"))
    record = fit_classifier(open_fit(folder, FitConfig(recipe=recipe, steps=2), opened), tmp_path / "model")
    assert record.read_with == "--stretch 0.0:200.0"
    assert (
        "own images were read with `--stretch 0.0:200.0`: bring images to 8-bit RGB"
        in (tmp_path / "model" / "README.md").read_text()
    )
    found = predict_folder(tmp_path / "model", own)
    assert [note for note in found.notes if note.startswith("own images were read with --stretch 0.0:200.0 when it")]
    plain = fit_classifier(open_fit(folder, FitConfig(recipe=recipe, steps=2), own), tmp_path / "plain")
    assert (plain.read_with, predict_folder(tmp_path / "plain", own).notes) == ("", ())
