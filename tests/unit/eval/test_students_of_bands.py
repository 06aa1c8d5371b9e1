"""Students of images of any number of bands: they see every band, cost what they must, and RGB ones say no by name."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from dpd_eval import students
from dpd_eval.arms import describe_student
from dpd_eval.recipe import Recipe
from dpd_eval.students import STUDENTS, augment, build_student, count_multiply_adds, predict, train_student
from dpd_runtime.errors import InputError
from tests.banded import COUNTS, scenes

FIRST = {
    "convnet": 32**2 * 9 * 16,
    "convnet-d3": 64**2 * 9 * 128,
    "resnet": 32**2 * 49 * 32,
    "resnet18": 32**2 * 49 * 64,
    "mobilenetv2": 32**2 * 9 * 16,
    "vit-tiny": 8**2 * 64 * 96,
}
"""Multiply-adds of the first layer at 64 px for one band: places × kernel × maps."""
EVERYTHING = Recipe(
    name="all", steps=1, batch=4, optimizer="sgd", peak_rate=0.1, crop=0.3, shift=3, cutmix=1.0, label_smoothing=0.1
)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_costs_its_first_layer_for_each_band(name: str, count: int) -> None:
    model = build_student(name, 7, 0, count)
    assert model(torch.zeros(2, count, 32, 32)).shape == (2, 7)
    rgb = count_multiply_adds(build_student(name, 7, 0), 64, 64)
    assert count_multiply_adds(model, 64, 64, count) == rgb + (count - 3) * FIRST[name]


def test_three_bands_are_the_students_that_there_were() -> None:
    for name in STUDENTS:
        plain, of_three = (build_student(name, 4, 1, *bands).state_dict() for bands in ((), (3,)))
        assert all(torch.equal(plain[key], of_three[key]) for key in plain)


def test_a_description_counts_the_bands() -> None:
    of_two, of_thirteen = (describe_student("convnet", 5, 64, count) for count in (2, 13))
    assert of_thirteen.multiply_adds - of_two.multiply_adds == 11 * FIRST["convnet"]
    assert of_thirteen.parameters - of_two.parameters == 11 * 9 * 16


@pytest.mark.parametrize("count", COUNTS)
def test_a_student_learns_what_the_last_band_alone_shows(count: int) -> None:
    recipe = Recipe(name="few", steps=40, batch=12, optimizer="adamw", peak_rate=5e-3, warmup=5, shift=2)
    train, fresh = scenes(count, 8), scenes(count, 8, seed=1)
    model = train_student("convnet", train.images, train.labels, 3, recipe, 0)
    assert (predict(model, fresh.images, "fp32") == fresh.labels).mean() > 0.9
    hidden = fresh.images.copy()
    hidden[..., -1] = 128
    assert (predict(model, hidden, "fp32") == fresh.labels).mean() < 0.6


@pytest.mark.parametrize("count", COUNTS)
def test_augmentation_moves_all_bands_alike(count: int) -> None:
    grey = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 1, 16, 16), dtype=np.uint8))
    moved = augment(grey.expand(-1, count, -1, -1).contiguous(), EVERYTHING, torch.Generator().manual_seed(0))
    assert moved.shape == (6, count, 16, 16)
    assert torch.equal(moved, moved[:, :1].expand(-1, count, -1, -1))
    assert not torch.equal(moved[:, :1], grey)


@pytest.mark.parametrize("name", [n for n in STUDENTS if n != "resnet18"])
def test_every_student_takes_a_step_with_every_augmentation(name: str) -> None:
    train = scenes(4, 2, side=32)
    before = build_student(name, 3, 0, 4).state_dict()
    after = train_student(name, train.images, train.labels, 3, EVERYTHING, 0).state_dict()
    kernel = next(key for key, value in before.items() if value.ndim == 4 and value.shape[1] == 4)
    change = (after[kernel] - before[kernel]).abs().amax(dim=(0, 2, 3))
    assert (change > 0).all(), "each band's weights are trained"
    assert torch.isfinite(torch.cat([value.flatten().float() for value in after.values()])).all()


def test_pretrained_students_say_that_they_know_three_bands(tmp_path: Path) -> None:
    config = ViTConfig(image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    ViTForImageClassification(config).save_pretrained(tmp_path)
    train = scenes(13, 2)
    with pytest.raises(InputError, match=r"student hf:.*: takes images of 3 bands, these have 13; give --students con"):
        train_student(f"hf:{tmp_path}", train.images, train.labels, 3, EVERYTHING, 0)


def test_students_of_other_packages_take_bands_if_they_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, dict[str, int]]] = []

    def rgb(num_classes: int) -> nn.Module:
        calls.append((num_classes, {}))
        return nn.Identity()

    def any_bands(num_classes: int, **more: int) -> nn.Module:
        calls.append((num_classes, more))
        return nn.Identity()

    def of_bands(num_classes: int, in_channels: int = 3) -> nn.Module:
        return any_bands(num_classes, in_channels=in_channels)

    offered = {"rgb": rgb, "bands": of_bands, "any": any_bands}
    monkeypatch.setattr(students, "check_student", lambda name: None)
    monkeypatch.setattr(students, "extension", offered.__getitem__)
    build_student("rgb", 5, 0)
    build_student("any", 6, 0)
    build_student("bands", 7, 0, 4)
    assert calls == [(5, {}), (6, {}), (7, {"in_channels": 4})]
    for name in ("rgb", "any"):
        with pytest.raises(InputError, match=f"student {name}: takes images of 3 bands, these have 4"):
            build_student(name, 5, 0, 4)
