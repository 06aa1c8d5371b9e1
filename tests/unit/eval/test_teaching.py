"""A bundle's teacher answers every view: what a student learns of it, and which teachers are refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from dpd_eval.fit import fit
from dpd_eval.options import FitConfig
from dpd_eval.recipe import load_recipe
from dpd_eval.students import View, labelled_lesson, taught_lesson, train_on
from dpd_eval.teaching import open_teacher, read_unlabelled
from dpd_runtime.bundle import load_bundle
from dpd_runtime.classifier import ClassifierRecord, classifier_card
from dpd_runtime.errors import DataError, InputError
from dpd_runtime.generation import generate
from dpd_runtime.sealing import FileEntry, write_audited
from dpd_train.context import load_run
from dpd_train.run import open_run
from dpd_train.scene_set import to_float

SHORT = replace(load_recipe("taught"), steps=30, batch=8, warmup=3, precision="fp32")


def pixels(count: int, side: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


class Linear(nn.Module):
    """Logits [n, 3] that are linear in an image's mean colours."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        with torch.no_grad():
            self.layer.weight.copy_(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layer(10 * x.mean((2, 3)))
        return logits


def test_the_loss_of_an_answer_has_the_gradient_of_a_divergence() -> None:
    """T² KL(teacher ‖ student) of softmaxes at temperature T, as Hinton et al. write it."""
    answers, logits = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1)).unbind()
    logits.requires_grad_()
    view = View(torch.arange(5), torch.zeros(5, 3, 2, 2))
    lesson = taught_lesson(pixels(5), lambda x: answers, 3.0)
    (found,) = torch.autograd.grad(lesson.criterion(view)(logits), logits)
    divergence = F.kl_div((logits / 3).log_softmax(1), (answers / 3).softmax(1), reduction="batchmean")
    (wanted,) = torch.autograd.grad(9 * divergence, logits)
    torch.testing.assert_close(found, wanted)


def test_a_student_becomes_its_teacher_where_labels_say_otherwise() -> None:
    """The student has the teacher's form, so that it can come to give the very same answers, also to new images."""
    teacher, student, images = Linear(0), Linear(1), pixels(200)
    lesson = taught_lesson(images, teacher, 2.0)
    recipe = replace(SHORT, steps=600, batch=32, peak_rate=0.05, weight_decay=0.0)
    train_on(student, [lesson], recipe, 0)
    new = to_float(torch.from_numpy(pixels(50, seed=9)))
    with torch.no_grad():
        torch.testing.assert_close(student(new).softmax(1), teacher(new).softmax(1), atol=0.03, rtol=0)


def test_two_lessons_have_equal_parts_of_a_batch_and_of_the_loss() -> None:
    seen: list[int] = []

    def answers(views: torch.Tensor) -> torch.Tensor:
        seen.append(len(views))
        return torch.zeros(len(views), 3)

    few, many = labelled_lesson(pixels(4), np.array([0, 1, 2, 0]), 0.0), taught_lesson(pixels(400), answers, 2.0)
    train_on(Linear(0), [few, many], SHORT, 0)
    assert seen == [SHORT.batch // 2] * SHORT.steps


def test_a_lesson_of_labels_is_the_training_on_labels() -> None:
    """Of one lesson, step by step: AdamW on the smoothed cross-entropy, without views."""
    images, labels = pixels(8), np.arange(8) % 3
    recipe = replace(SHORT, steps=3, warmup=0, decay="linear", d4=False, crop=1.0, cutmix=0.0, weight_decay=0.0)
    found, wanted = Linear(0), Linear(0)
    train_on(found, [labelled_lesson(images, labels, 0.1)], recipe, 0)
    adam = torch.optim.AdamW(wanted.parameters(), lr=recipe.peak_rate, weight_decay=0.0)
    for step in range(3):  # a batch is all images, so that their order does not matter
        adam.param_groups[0]["lr"] = recipe.peak_rate * (1 - step / 3)
        loss = F.cross_entropy(
            wanted(to_float(torch.from_numpy(images))), torch.from_numpy(labels), label_smoothing=0.1
        )
        adam.zero_grad()
        loss.backward()
        adam.step()
    torch.testing.assert_close(found.layer.weight, wanted.layer.weight, rtol=1e-4, atol=1e-5)


def test_answers_are_those_of_the_runs_teacher_in_the_order_of_the_classes(bundle: Path, run: Path) -> None:
    opened, trained = load_bundle(bundle), load_run(open_run(run)).teacher
    names = tuple(of_class.name for of_class in opened.classes)
    views = to_float(torch.from_numpy(pixels(5, opened.manifest.image_shape[0])))
    with torch.no_grad():
        wanted = trained(views)
    found = open_teacher(opened, names[::-1]).answers(views)
    torch.testing.assert_close(found.flip(1), wanted, rtol=1e-3, atol=1e-3)
    probabilities = open_teacher(opened, names).probabilities(pixels(5, opened.manifest.image_shape[0]))
    np.testing.assert_allclose(probabilities, wanted.softmax(1), rtol=1e-3, atol=1e-3)


def test_views_of_another_size_are_brought_to_the_teachers(bundle: Path) -> None:
    opened = load_bundle(bundle)
    teacher = open_teacher(opened, tuple(of_class.name for of_class in opened.classes))
    colour = torch.tensor([0.2, -0.4, 0.6]).view(1, 3, 1, 1)
    side = opened.manifest.image_shape[0]
    own, larger = (teacher.answers(colour.expand(2, 3, at, at)) for at in (side, 3 * side))
    torch.testing.assert_close(larger, own, rtol=1e-4, atol=1e-4)


def audited(bundle: Path, out: Path, verdict: str, of: str) -> Path:
    test = {"name": of, "value": 0.7, "interval": [0.65, 0.75], "threshold": 0.6, "verdict": verdict, "note": "AUC"}
    record = {"verdict": verdict, "tests": [test], "controls": [], "audited": {}, "data": None, "images": 1, "seed": 0}
    write_audited(load_bundle(bundle), out, record, verdict)
    return out


def test_a_teacher_that_its_audit_failed_is_refused(bundle: Path, tmp_path: Path) -> None:
    names = tuple(of_class.name for of_class in load_bundle(bundle).classes)
    failed = audited(bundle, tmp_path / "failed.dpd", "FAIL", "membership of the teacher, log-odds")
    with pytest.raises(
        InputError, match=r"--teacher .*failed\.dpd: its audit failed it \(membership of the teacher, lo"
    ):
        open_teacher(load_bundle(failed), names)
    others = audited(bundle, tmp_path / "others.dpd", "FAIL", "membership of the VAE decoder, reconstruction")
    open_teacher(load_bundle(others), names)  # another part of the bundle failed


def test_an_unaudited_teacher_teaches_with_a_warning(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    opened = load_bundle(bundle)
    open_teacher(opened, tuple(of_class.name for of_class in opened.classes))
    assert "was not audited: nobody has tested whether its teacher tells who was in its training" in caplog.text


def test_teachers_of_other_classes_and_bundles_without_one_are_refused(bundle: Path, matched: Path) -> None:
    with pytest.raises(DataError, match=r"its classes are not those of the set, first"):
        open_teacher(load_bundle(bundle), ("a", "b"))
    with pytest.raises(InputError, match=r"--teacher: the bundle holds no teacher .* exported without --codes-only"):
        open_teacher(load_bundle(matched / "codes.dpd"), ("a", "b"))


def test_images_without_labels_are_those_that_can_be_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "images" / "deep").mkdir(parents=True)
    for number, place in enumerate(("a.png", "deep/b.png")):
        Image.fromarray(pixels(1, 20 + 4 * number, number)[0]).save(tmp_path / "images" / place)
    (tmp_path / "images" / "c.png").write_bytes(b"no image")
    found = read_unlabelled(tmp_path / "images", 16)
    assert found.images.shape == (2, 16, 16, 3)
    assert len(set(found.hashes)) == 2
    assert "1 image of 3 cannot be read, first" in caplog.text
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "c.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"--unlabelled .*bad: none of 1 image can be read, first .*c\.png"):
        read_unlabelled(tmp_path / "bad", 16)


def test_images_that_do_not_fit_into_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(pixels(1)[0]).save(tmp_path / "a.png")
    monkeypatch.setattr("dpd_eval.teaching.usable_memory", lambda: 2 * 64 * 64 * 3 - 1)
    with pytest.raises(DataError, match=r"1 image of 64 px, .* GB: more than half of the .* GB of memory; give fewer"):
        read_unlabelled(tmp_path, 64)


def test_a_fit_is_taught_and_its_card_says_so(bundle: Path, tmp_path: Path) -> None:
    opened = load_bundle(bundle)
    side = opened.manifest.image_shape[0]
    for image in generate(opened, ipc=4):
        (tmp_path / "set" / image.class_name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.pixels).save(tmp_path / "set" / image.class_name / f"{image.index}.png")
    (tmp_path / "others").mkdir()
    for number in range(6):
        Image.fromarray(pixels(1, side, number)[0]).save(tmp_path / "others" / f"{number}.png")
    config = FitConfig(steps=4)
    fitted = fit(tmp_path / "set", config, teacher=opened, unlabelled=tmp_path / "others")
    assert fitted.training["teacher"]["bundle_hash"] == opened.hash
    assert fitted.training["unlabelled"]["images"] == 6
    assert fitted.training["recipe"]["name"] == "taught"
    assert str(tmp_path) not in json.dumps(fitted.training)
    entry = FileEntry("0" * 64, 1)
    card = classifier_card(
        ClassifierRecord(classes=fitted.classes, side=side, graph=entry, network="convnet", training=fitted.training)
    )
    assert "- 6 images of the site's images without labels, content hash" in card
    assert f"hash `{opened.hash}`, audit unaudited: it answered every view" in card
    alone = fit(tmp_path / "set", config)
    pairs = zip(fitted.network.parameters(), alone.network.parameters(), strict=True)
    assert any(not torch.equal(one, other) for one, other in pairs)
    with pytest.raises(
        InputError, match=r"--unlabelled .*others: nobody says what they show; give --teacher BUNDLE, too"
    ):
        fit(tmp_path / "set", config, unlabelled=tmp_path / "others")
