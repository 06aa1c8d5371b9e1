"""A bundle's teacher answers every view: what a student learns of it, and which teachers are refused."""

import json
import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from dpd_eval import EvaluateConfig, evaluate
from dpd_eval.arms import describe_student
from dpd_eval.attacks import Scores, membership_tests
from dpd_eval.fit import fit
from dpd_eval.inputs import open_evaluation, open_fit
from dpd_eval.networks import ConvNet
from dpd_eval.options import FitConfig
from dpd_eval.recipe import load_recipe
from dpd_eval.results import Setting
from dpd_eval.students import TEMPERATURE, View, build_student, labelled_lesson, predict, taught_lesson, train_on
from dpd_eval.teaching import open_teacher, read_unlabelled, teacher_of
from dpd_runtime.bundle import load_bundle, weights_of
from dpd_runtime.classifier import ClassifierRecord, classifier_card, images_below
from dpd_runtime.errors import BundleError, DataError, InputError
from dpd_runtime.networks import TEACHER
from dpd_runtime.sealing import FileEntry, write_audited
from dpd_train.compute import one_thread
from dpd_train.context import load_run
from dpd_train.run import open_run
from dpd_train.scene_set import to_float
from dpd_train.scenes import open_scenes, read_scenes
from tests.unit.eval.test_backbone import write_vit
from tests.unit.eval.test_fit import write_set

SHORT = replace(load_recipe("taught"), steps=30, batch=8, warmup=3, precision="fp32")
SIDE = 16


def pixels(count: int, side: int = SIDE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


class Linear(nn.Module):
    """Logits [n, 3] that are linear in an image's mean colours."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        with torch.no_grad():
            self.layer.weight.copy_(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed)))
            self.layer.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layer(10 * x.mean((2, 3)))
        return logits


# -- Lessons.


def test_the_loss_of_an_answer_has_the_gradient_of_a_divergence() -> None:
    """T² KL(teacher ‖ student) of softmaxes at temperature T, as Hinton et al. write it."""
    answers, logits = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1)).unbind()
    logits.requires_grad_()
    view = View(torch.arange(5), torch.zeros(5, 3, 2, 2))
    lesson = taught_lesson((pixels(5),), lambda x: answers, 3.0)
    (found,) = torch.autograd.grad(lesson.criterion(view)(logits), logits)
    divergence = F.kl_div((logits / 3).log_softmax(1), (answers / 3).softmax(1), reduction="batchmean")
    (wanted,) = torch.autograd.grad(9 * divergence, logits)
    torch.testing.assert_close(found, wanted)


def test_a_student_becomes_its_teacher_where_labels_say_otherwise() -> None:
    """The student has the teacher's form, so that it can come to give the very same answers, also to new images."""
    teacher, student, images = Linear(0), Linear(1), pixels(200)
    lesson = taught_lesson((images[:60], images[60:]), teacher, 2.0)
    recipe = replace(SHORT, steps=600, batch=32, peak_rate=0.05, weight_decay=0.0)
    train_on(student, [lesson], recipe, 0)
    new = to_float(torch.from_numpy(pixels(50, seed=9)))
    with torch.no_grad():
        torch.testing.assert_close(student(new).softmax(1), teacher(new).softmax(1), atol=0.03, rtol=0)


def test_two_lessons_have_equal_parts_of_a_batch_and_of_the_loss() -> None:
    """One step of plain gradient descent on half of both losses; of nine images, the first lesson has five."""
    seen: list[torch.Tensor] = []

    def answers(views: torch.Tensor) -> torch.Tensor:
        seen.append(views)
        return Linear(5)(views)

    own, labels = pixels(5), np.array([0, 1, 2, 0, 1])
    recipe = replace(SHORT, steps=1, batch=9, warmup=0, optimizer="sgd", nesterov=False, peak_rate=0.1)
    recipe = replace(recipe, d4=False, crop=1.0, cutmix=0.0, weight_decay=0.0)
    found, wanted = Linear(0), Linear(0)
    train_on(found, [labelled_lesson((own,), labels, 0.0), taught_lesson((pixels(400),), answers, 2.0)], recipe, 0)
    [views] = seen
    assert len(views) == 4
    known = F.cross_entropy(wanted(to_float(torch.from_numpy(own))), torch.from_numpy(labels))
    asked = 4 * F.cross_entropy(wanted(views) / 2, (Linear(5)(views) / 2).softmax(1).detach())
    (0.5 * (known + asked)).backward()
    assert wanted.layer.weight.grad is not None
    torch.testing.assert_close(found.layer.weight, wanted.layer.weight - 0.1 * wanted.layer.weight.grad)


def test_rows_are_counted_through_all_parts_of_a_lesson() -> None:
    images = pixels(10)
    lesson = taught_lesson((images[:3], images[3:4], images[4:]), lambda x: x, 2.0)
    rows = torch.tensor([9, 0, 3, 3, 2, 4])
    np.testing.assert_array_equal(lesson.pixels(rows).numpy(), images[rows.numpy()])
    assert len(lesson) == 10


def test_a_lesson_of_labels_is_the_training_on_labels() -> None:
    """Of one lesson, step by step: AdamW on the smoothed cross-entropy, without views."""
    images, labels = pixels(8), np.arange(8) % 3
    recipe = replace(SHORT, steps=3, warmup=0, decay="linear", d4=False, crop=1.0, cutmix=0.0, weight_decay=0.0)
    found, wanted = Linear(0), Linear(0)
    train_on(found, [labelled_lesson((images,), labels, 0.1)], recipe, 0)
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


# -- The teacher of a bundle.


def classes_of(bundle: Path) -> tuple[str, ...]:
    return tuple(known.name for known in load_bundle(bundle).classes)


def test_answers_are_those_of_the_runs_teacher_in_the_order_of_the_classes(bundle: Path, run: Path) -> None:
    names, trained = classes_of(bundle), load_run(open_run(run)).teacher
    views = to_float(torch.from_numpy(pixels(70, load_bundle(bundle).manifest.image_shape[0])))
    with torch.no_grad():
        wanted = trained(views)
    found = open_teacher(load_bundle(bundle), names[::-1], 1)(views)  # in two calls
    torch.testing.assert_close(found.flip(1), wanted, rtol=1e-3, atol=1e-3)
    some = open_teacher(load_bundle(bundle), names[1:], 1)(views[:3])
    torch.testing.assert_close(some, wanted[:3, 1:], rtol=1e-3, atol=1e-3)


def test_views_of_another_size_are_brought_to_the_teachers(bundle: Path) -> None:
    opened = load_bundle(bundle)
    answers, side = open_teacher(opened, classes_of(bundle), 1), opened.manifest.image_shape[0]
    colour = torch.tensor([0.2, -0.4, 0.6]).view(1, 3, 1, 1)
    own, larger = (answers(colour.expand(2, 3, at, at)) for at in (side, 3 * side))
    torch.testing.assert_close(larger, own, rtol=1e-4, atol=1e-4)


def test_a_teacher_without_finite_answers_is_refused_at_once(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpd_runtime.networks.run_to", lambda engine, graph, shape, **inputs: np.full(shape, np.nan))
    with pytest.raises(BundleError, match=r"classifier/model\.onnx gave no probabilities for \d classes"):
        open_teacher(load_bundle(bundle), classes_of(bundle), 1)


# -- Which teachers may teach.


@pytest.fixture
def distilled(tmp_path: Path, bundle: Path) -> Path:
    return write_set(tmp_path / "set", 6, names=classes_of(bundle))


def audited(bundle: Path, out: Path, tests: list[Mapping[str, Any]]) -> Path:
    verdict = "FAIL" if any(test["verdict"] == "FAIL" for test in tests) else "PASS"
    record = {"verdict": verdict, "tests": tests, "controls": [], "audited": {}, "data": None, "images": 1, "seed": 0}
    write_audited(load_bundle(bundle), out, record, verdict)
    return out


def told(separate: float, of: str) -> list[Mapping[str, Any]]:
    """The audit's own tests of scores that differ so much between members and others."""
    rng = np.random.default_rng(0)
    scores = {"log-odds": Scores(rng.normal(separate, 1, 300), rng.normal(0, 1, 300))}
    return [test.to_dict() for test in membership_tests(of, scores)]


def test_a_teacher_that_its_audit_failed_is_refused(bundle: Path, distilled: Path, tmp_path: Path) -> None:
    failed = load_bundle(audited(bundle, tmp_path / "failed.dpd", told(3, "teacher")))
    with pytest.raises(
        InputError, match=r"failed\.dpd: its audit failed it \(membership of the teacher, log-odds: AUC\)"
    ):
        open_fit(distilled, FitConfig(), None, failed)
    others = audited(bundle, tmp_path / "others.dpd", [*told(0, "teacher"), *told(3, "VAE decoder")])
    open_fit(distilled, FitConfig(), None, load_bundle(others))  # another part of the bundle failed


def test_a_teacher_that_nobody_tested_teaches_with_a_warning(
    bundle: Path, distilled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_fit(distilled, FitConfig(), None, load_bundle(bundle))
    assert "was not audited: nobody tested whether its teacher tells who was in its training" in caplog.text
    caplog.clear()
    open_fit(distilled, FitConfig(), None, load_bundle(audited(bundle, tmp_path / "a.dpd", told(0, "VAE decoder"))))
    assert "a.dpd: its audit did not test its teacher" in caplog.text
    caplog.clear()
    open_fit(distilled, FitConfig(), None, load_bundle(audited(bundle, tmp_path / "b.dpd", told(0, "teacher"))))
    assert "audit" not in caplog.text


def test_what_a_teacher_cannot_do_is_said_first(bundle: Path, matched: Path, distilled: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--teacher: the bundle holds no teacher .* exported without --codes-only"):
        open_fit(distilled, FitConfig(), None, load_bundle(matched / "codes.dpd"))
    others = write_set(tmp_path / "others", 2, names=(*classes_of(bundle), "Elsewhere"))
    with pytest.raises(
        DataError, match=r"it does not know 1 class of the data, first Elsewhere; name the class folders"
    ):
        open_fit(others, FitConfig(), None, load_bundle(bundle))
    with pytest.raises(InputError, match="--steps 0: a teacher answers the views of a training"):
        open_fit(distilled, FitConfig(backbone="x", steps=0), None, load_bundle(bundle))
    with pytest.raises(InputError, match=r"--unlabelled .*set: nobody says what they show; give --teacher BUNDLE, too"):
        open_fit(distilled, FitConfig(), None, None, distilled)
    with pytest.raises(DataError, match="nowhere: no such file or folder"):
        open_fit(distilled, FitConfig(), None, load_bundle(bundle), tmp_path / "nowhere")


# -- Images without labels.


def test_images_without_labels_are_those_that_can_be_read_and_are_not_known(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "images"
    (place / "deep").mkdir(parents=True)
    for number, name in enumerate(("a.png", "deep/b.png", "deep/c.png")):
        Image.fromarray(pixels(1, 20 + 4 * number, number)[0]).save(place / name)
    (place / "d.png").write_bytes(b"no image")
    files = images_below(place)
    whole = read_unlabelled(place, files, SIDE, None, ())
    assert (whole.images.shape, len(set(whole.hashes))) == ((3, SIDE, SIDE, 3), 3)
    found = read_unlabelled(place, files, SIDE, None, whole.hashes[1:2])
    np.testing.assert_array_equal(found.images, whole.images[[0, 2]])
    record = found.record()
    assert (record["images"], record["unread"], record["left_out"]) == (2, 1, 1)
    assert "1 image of 4 cannot be read, first" in caplog.text
    assert "images: 1 image left out, as labelled or held out elsewhere" in caplog.text
    with pytest.raises(
        DataError, match=r"--unlabelled .*images: no image is left of 1, first .*d\.png: .*; give others"
    ):
        read_unlabelled(place, [place / "d.png"], SIDE, None, ())
    with pytest.raises(DataError, match="no image is left of 1, all are labelled or held out elsewhere"):
        read_unlabelled(place, [place / "a.png"], SIDE, None, whole.hashes)


def test_images_that_do_not_fit_into_the_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpd_eval.teaching.usable_memory", lambda: 2 * 64 * 64 * 3 - 1)
    with pytest.raises(DataError, match=r"1 image of 64 px, .* GB: more than half of the .* GB of memory; give fewer"):
        read_unlabelled(Path("x"), [Path("x/a.png")], 64, None, ())


# -- The whole.


def test_a_fit_is_the_lesson_of_the_teacher_and_the_card_says_so(bundle: Path, distilled: Path, tmp_path: Path) -> None:
    opened, classes = load_bundle(bundle), classes_of(bundle)
    (tmp_path / "others").mkdir()
    for number in range(6):
        Image.fromarray(pixels(1, 24, number)[0]).save(tmp_path / "others" / f"{number}.png")
    made = read_scenes(distilled, part="all")
    first = next(path for path in (distilled / classes[0]).iterdir())
    (tmp_path / "others" / "x.png").write_bytes(first.read_bytes())  # the set's own image is asked about once
    config = FitConfig(steps=4, seed=3)
    fitted = fit(open_fit(distilled, config, teacher=opened, unlabelled=tmp_path / "others"))
    parts = made.images, np.concatenate([pixels(1, 24, number) for number in range(6)])
    lesson = taught_lesson(parts, open_teacher(opened, classes, torch.get_num_threads()), TEMPERATURE)
    recipe = replace(load_recipe("taught"), steps=4, warmup=3)
    wanted = train_on(build_student("convnet", len(classes), 3), [lesson], recipe, 3)
    for found, expected in zip(fitted.network.parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert fitted.training["teacher"]["bundle_hash"] == opened.hash
    assert fitted.training["unlabelled"] | {"sha256": ""} == {"images": 6, "unread": 0, "left_out": 1, "sha256": ""}
    assert str(tmp_path) not in json.dumps(fitted.training)
    entry = FileEntry("0" * 64, 1)
    record = ClassifierRecord(classes=classes, side=24, graph=entry, network="convnet", training=fitted.training)
    card = classifier_card(record)
    assert "- 6 images of the site's images without labels, content hash" in card
    assert f"hash `{opened.hash}`, unsigned, audit unaudited: it answered every view" in card


def test_own_images_keep_their_labels_and_those_held_out_are_shown_to_nobody(
    bundle: Path, distilled: Path, tmp_path: Path
) -> None:
    own = write_set(tmp_path / "own", 5, seed=7, names=classes_of(bundle))
    config = FitConfig(steps=4, val_per_class=2)
    (tmp_path / "more").mkdir()
    Image.fromarray(pixels(1, 24, 9)[0]).save(tmp_path / "more" / "a.png")
    fitted = fit(open_fit(distilled, config, own=own, teacher=load_bundle(bundle), unlabelled=tmp_path / "more"))
    count = len(classes_of(bundle))
    assert fitted.validation["images"] == 2 * count
    assert (fitted.training["own"]["images"], fitted.training["unlabelled"]["images"]) == (3 * count, 1)
    parts = open_scenes(own, config)
    mine = parts.part("train", 24)
    answers = open_teacher(load_bundle(bundle), mine.classes, torch.get_num_threads())
    asked = read_scenes(distilled, part="all").images, pixels(1, 24, 9)
    smoothing = load_recipe("taught").label_smoothing
    lessons = [taught_lesson(asked, answers, TEMPERATURE), labelled_lesson((mine.images,), mine.labels, smoothing)]
    recipe = replace(load_recipe("taught"), steps=4, warmup=3)
    wanted = train_on(build_student("convnet", count, 0), lessons, recipe, 0)
    for found, expected in zip(fitted.network.parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    with pytest.raises(DataError, match="no image is left"):
        fit(open_fit(distilled, config, own=own, teacher=load_bundle(bundle), unlabelled=own))


def test_a_student_that_fits_itself_asks_no_teacher(
    bundle: Path, distilled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Alone(nn.Module):
        def fit(self, images: np.ndarray, labels: np.ndarray, soft: np.ndarray | None) -> None:
            raise AssertionError("the teacher would be passed over in silence")

    monkeypatch.setattr("dpd_eval.fit.build_student", lambda name, classes, seed: Alone())
    with pytest.raises(InputError, match="student convnet: it fits itself and asks no teacher; give another"):
        fit(open_fit(distilled, FitConfig(steps=2), teacher=load_bundle(bundle)))


# -- The arms of an evaluation.


@pytest.fixture
def scenes(tmp_path: Path, bundle: Path) -> dict[str, Path]:
    names = classes_of(bundle)
    parts = {"train": (8, 3), "test": (4, 4), "set": (3, 5)}
    return {part: write_set(tmp_path / part, count, seed=seed, names=names) for part, (count, seed) in parts.items()}


def test_an_evaluation_sets_the_teachers_worth_apart_from_the_sets(
    bundle: Path, scenes: dict[str, Path], tmp_path: Path
) -> None:
    opened, recipe = load_bundle(bundle), replace(SHORT, steps=8)
    config = EvaluateConfig(ipc=(3,), pairs=2, baselines=("random", "full"), metrics=False, resolution=SIDE)
    found = evaluate(
        [scenes["set"]],
        config,
        train=scenes["train"],
        test=scenes["test"],
        teacher=opened,
        recipe=recipe,
        cache=tmp_path / "cache",
    )
    assert found.arm_names() == ("set", "random", "full", "taught set", "taught random")
    compared = {(row.arm, row.reference) for row in found.differences}
    under = {("taught set", reference) for reference in ("set", "full", "taught random")}
    assert compared == {("set", "random"), ("set", "full")} | under
    words = f"the classifier of bundle {opened.manifest.name}, {opened.hash[:12]}…"
    assert [
        note for note in found.notes if note.startswith(f"arms taught …: {words}, unsigned, audit unaudited, answered")
    ]
    assert "dpd fit --teacher --student follows the recipe taught (10000 steps), these students another" in found.notes
    assert found.teacher == words.removeprefix("the ")
    assert "onnxruntime" in " ".join(found.versions)
    assert found.fingerprints["the teacher's bundle"] == opened.hash
    made, tested = (read_scenes(scenes[part], part="all", resolution=SIDE) for part in ("set", "test"))
    answers = open_teacher(opened, made.classes, 1)
    for seed, share in enumerate(found.arm("taught set", Setting("convnet", 3)).oa_runs):
        student = build_student("convnet", len(made.classes), seed)
        with one_thread():
            train_on(student, [taught_lesson((made.images,), answers, TEMPERATURE)], recipe, seed)
            assert share == pytest.approx((predict(student, tested.images, "fp32") == tested.labels).mean())
    again = evaluate(
        [scenes["set"]],
        replace(config, baselines=()),
        train=scenes["train"],
        test=scenes["test"],
        teacher=load_bundle(bundle),
        recipe=recipe,
        cache=tmp_path / "cache",
    )
    assert [arm.cached for arm in again.arms] == [2, 2]


def test_what_decides_a_teachers_answers_is_in_the_key_of_a_training(bundle: Path) -> None:
    names = classes_of(bundle)
    opened = load_bundle(bundle)
    same = teacher_of(opened, names).identity
    assert teacher_of(load_bundle(bundle), list(names)).identity == same
    other = opened.files | {TEACHER: opened.files[TEACHER] + b"x"}
    others = [
        teacher_of(opened, names[::-1]).identity,  # students of other classes take other columns
        teacher_of(replace(opened, classes=opened.classes[::-1]), names).identity,
        teacher_of(replace(opened, files=other), names).identity,
        teacher_of(replace(opened, files=opened.files | {weights_of(TEACHER): b"x"}), names).identity,
    ]
    assert len({same, *others}) == 5


def test_other_processes_get_the_teachers_graph_and_no_key(bundle: Path) -> None:
    opened = replace(load_bundle(bundle), key="a secret passphrase", raw=b"raw bytes")
    sent = pickle.dumps(teacher_of(opened, classes_of(bundle)))
    assert opened.files[TEACHER] in sent
    others = [name for name in opened.files if name != TEACHER and len(opened.files[name]) > 9]
    assert len(others) > 5
    assert not [name for name in others if opened.files[name] in sent]
    assert opened.classes[0].prototypes.size
    for array in (*(known.prototypes for known in opened.classes), opened.prompt_embeddings, opened.empty_embedding):
        assert array.tobytes() not in sent
        assert np.ascontiguousarray(array.reshape(-1)[:9]).tobytes() not in sent
    assert not [text for text in opened.prompts if text.encode() in sent]
    assert b"a secret passphrase" not in sent
    assert b"raw bytes" not in sent


def test_a_teacher_that_cannot_answer_ends_the_evaluation_before_images_are_read(
    bundle: Path, scenes: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpd_runtime.networks.run_to", lambda engine, graph, shape, **inputs: np.full(shape, np.nan))
    monkeypatch.setattr("dpd_eval.evaluation.read_inputs", lambda *_: pytest.fail("images were read"))
    with pytest.raises(BundleError, match="gave no probabilities"):
        evaluate([scenes["set"]], train=scenes["train"], test=scenes["test"], teacher=load_bundle(bundle))


def test_a_student_that_fits_itself_is_refused_before_others_are_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    class Alone(ConvNet):
        def fit(self, images: np.ndarray, labels: np.ndarray, soft: np.ndarray | None) -> None:
            raise AssertionError("the teacher would be passed over in silence")

    monkeypatch.setattr("dpd_eval.arms.build_student", lambda name, classes, seed, bands: Alone(classes))
    assert describe_student("alone", 3, SIDE).parameters > 0
    with pytest.raises(InputError, match="student alone: it fits itself and asks no teacher"):
        describe_student("alone", 3, SIDE, taught=True)


@pytest.mark.full
def test_trainings_in_other_processes_ask_the_same_teacher(
    bundle: Path, scenes: dict[str, Path], tmp_path: Path
) -> None:
    config = EvaluateConfig(ipc=(2,), pairs=2, metrics=False, resolution=SIDE)
    here, apart = (
        evaluate(
            [scenes["set"]],
            replace(config, jobs=jobs),
            train=scenes["train"],
            test=scenes["test"],
            teacher=load_bundle(bundle),
            recipe=SHORT,
            cache=tmp_path / str(jobs),
        )
        for jobs in (1, 2)
    )
    assert [arm.confusion for arm in here.arms] == [arm.confusion for arm in apart.arms]


def test_two_students_of_one_name_could_not_be_told_apart(scenes: dict[str, Path], tmp_path: Path) -> None:
    students = tuple(f"probe:hf:{write_vit(tmp_path / place / 'eyes')}" for place in ("one", "two"))
    with pytest.raises(InputError, match="two are called probe:hf:eyes, which tables could not tell apart"):
        open_evaluation([scenes["set"]], EvaluateConfig(students=students), scenes["train"], scenes["test"])
    open_evaluation([scenes["set"]], EvaluateConfig(students=students[:1]), scenes["train"], scenes["test"])


def test_evaluations_that_no_teacher_can_join(bundle: Path, scenes: dict[str, Path], tmp_path: Path) -> None:
    failed = audited(bundle, tmp_path / "failed.dpd", told(3, "teacher"))

    def opened(teacher: Path, **options: Any) -> None:
        open_evaluation(
            [scenes["set"]], EvaluateConfig(**options), scenes["train"], scenes["test"], load_bundle(teacher)
        )

    opened(bundle)
    with pytest.raises(InputError, match="a student learns from one teacher; leave one out"):
        opened(bundle, soft_labels=True)
    with pytest.raises(InputError, match=r"its audit failed it"):
        opened(failed)
    probe = f"probe:hf:{write_vit(tmp_path / 'vit')}"
    with pytest.raises(InputError, match=r"student probe:.* is fitted and asks no teacher; evaluate it without one"):
        opened(bundle, students=(probe,))
