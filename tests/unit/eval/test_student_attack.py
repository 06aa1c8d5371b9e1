"""Membership by students of released images: copies are found, unseen images are not, log-odds are those of PyTorch."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from dpd_eval import attacks
from dpd_eval.attacks import RECIPE, LabelledImages, log_odds, student_tests, students_of
from dpd_eval.recipe import Recipe
from dpd_eval.subject import AuditData
from dpd_eval.verdict import decide
from dpd_runtime.annotations import Images
from dpd_train.scene_set import SceneSet

SIDE, CLASSES = 16, 2


def scenes(each: int, seed: int) -> SceneSet:
    """Noise around the mean of a class: too little of it to tell classes apart without knowing the image."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(CLASSES), each)
    noise = rng.normal(128, 50, (len(labels), SIDE, SIDE, 3))
    noise[..., 0] += 4.0 * labels[:, None, None]
    images: Images = noise.clip(0, 255).astype(np.uint8)
    return SceneSet(("a", "b"), images, labels, tuple(f"{seed}-{i}" for i in range(len(labels))), ())


def split(held: SceneSet) -> AuditData:
    rows = np.arange(len(held.labels))
    return AuditData(scenes(300, 0), held, rows[::2], rows[1::2], ())


@pytest.fixture(scope="module")
def data() -> AuditData:
    return split(scenes(150, 1))


@pytest.fixture(scope="module", autouse=True)
def trained_once() -> Iterator[None]:
    """Students of the same images are trained once for all tests."""
    known: dict[tuple[bytes, Recipe], list[nn.Module]] = {}

    def students(part: LabelledImages, classes: int, recipe: Recipe, device: str) -> list[nn.Module]:
        key = (part.images.tobytes() + part.labels.tobytes(), recipe)
        if key not in known:
            known[key] = students_of(part, classes, recipe, device)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attacks, "students_of", students)
        yield


@pytest.mark.full
@pytest.mark.parametrize("repeats_t", [True, False])
def test_a_set_of_copies_is_found_and_a_set_of_other_images_is_not(data: AuditData, repeats_t: bool) -> None:
    """A quarter of T is repeated: of random members the attack knows a quarter."""
    source = data.train.only(np.arange(0, 600, 4)) if repeats_t else scenes(75, 2)
    released = LabelledImages(source.images, source.labels)
    short = replace(RECIPE, steps=200, d4=False)
    tests, controls = student_tests(released, data, lambda done, total: None, recipe=short)
    area = next(test for test in tests if test.name.endswith("AUC"))
    assert area.value == pytest.approx(0.5 + 0.5 * 0.25 * repeats_t, abs=0.07)
    assert "if the set were copies of T" in area.note
    known, alone = controls
    assert (known.expected, known.verdict) == ("FAIL", "FAIL")
    assert known.value is not None
    assert known.value > 0.85
    assert alone.expected == "PASS"
    assert alone.value == pytest.approx(0.5, abs=0.1)


def test_a_pass_that_copies_would_have_too_is_none() -> None:
    """1,500 released images of 12,000: students of 1,500 copies know an eighth of T, an AUC of 0.52."""
    passed, copies, seen = (decide("x", value, (value - 0.02, value + 0.02), 0.6, harmless=0.55)
                            for value in (0.5, 0.52, 0.7))  # fmt: skip
    assert (passed.verdict, copies.verdict, seen.verdict) == ("PASS", "PASS", "FAIL")
    found = attacks._with_power(passed, copies)
    assert (found.verdict, found.value) == ("WARN", 0.5)
    assert "0.520 if the set were copies of T, so it cannot FAIL" in found.note
    assert attacks._with_power(passed, seen).verdict == "PASS"
    assert attacks._with_power(seen, copies).verdict == "FAIL"


def test_a_small_hold_out_is_not_run_and_so_lowers_the_verdict() -> None:
    data = split(scenes(40, 1))
    released = LabelledImages(data.train.images, data.train.labels)
    tests, controls = student_tests(released, data, lambda done, total: None)
    assert [test.verdict for test in tests] == ["NOT RUN"]
    assert "has 40" in tests[0].note
    assert [control.verdict for control in controls] == ["NOT RUN"] * 2


def test_as_many_images_of_each_class_are_drawn_as_there_are() -> None:
    labels = np.array([0] * 5 + [1] * 2 + [2] * 9)
    part = LabelledImages(np.arange(16, dtype=np.uint8)[:, None, None, None], labels)
    drawn = part.drawn(np.array([3, 4, 0]), 0)
    assert np.bincount(drawn.labels, minlength=3).tolist() == [3, 2, 0]
    rows = drawn.images.ravel()
    assert len(set(rows.tolist())) == 5
    assert np.array_equal(labels[rows], drawn.labels)
    assert not np.array_equal(part.drawn(np.array([3, 2, 5]), 0).images, part.drawn(np.array([3, 2, 5]), 1).images)


def test_students_see_64_pixels_at_most() -> None:
    flat = np.full((3, 256, 256, 3), [10, 120, 250], np.uint8)
    small = LabelledImages(flat, np.arange(3)).small
    assert small.images.shape == (3, 64, 64, 3)
    assert np.array_equal(small.images, flat[:, :64, :64])
    assert LabelledImages(small.images, np.arange(3)).small.images is small.images


class Fixed(nn.Module):
    """Logits that depend on the first pixel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([8 * x[:, 0, 0, 0], -3 * x[:, 0, 0, 0], 0.5 + 0 * x[:, 0, 0, 0]], dim=1)


def test_log_odds_are_those_of_the_softmax() -> None:
    images = np.arange(0, 256, 5, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)
    part = LabelledImages(images, np.arange(len(images)) % 3)
    pixels = torch.from_numpy(images.astype(np.float64)).permute(0, 3, 1, 2) / 127.5 - 1
    chances = Fixed()(pixels).softmax(1).numpy()[np.arange(len(images)), part.labels]
    assert log_odds([Fixed(), Fixed()], part) == pytest.approx(np.log(chances / (1 - chances)), abs=1e-5)
