"""A hold-out of the same images, and of images at another scale or in other colours; and what does not need one."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from dpd_eval.audit import RESTING
from dpd_eval.extractors import untrained_extractor
from dpd_eval.nearness import MEMBERSHIP_LIMIT, AuditedImages, comparable_test, near_copies, two_samples
from dpd_eval.subject import AuditData, Words, _halves
from dpd_eval.verdict import LEGEND, Audit, reasons
from dpd_runtime.annotations import Images
from dpd_runtime.errors import DataError
from dpd_train.drawn_scenes import CLASSES, numbered_scene
from dpd_train.scene_set import SceneSet
from tests.audits import audit
from tests.commands import dpd
from tests.tiny import SIDE, drawn_scenes

COUNT, HELD = 32, 16  # images of each class in T and in H


@cache
def drawn(seed: int, count: int) -> SceneSet:
    images = np.stack([numbered_scene(label, i, seed, SIDE) for label in range(len(CLASSES)) for i in range(count)])
    hashes = tuple(f"{seed} {row}" for row in range(len(images)))
    return SceneSet(tuple(CLASSES), images, np.repeat(np.arange(len(CLASSES)), count), hashes, ())


def beside(change: Callable[[Images], Images], seed: int = 1) -> AuditData:
    """T, and a hold-out whose images are changed."""
    held = drawn(seed, HELD)
    changed = SceneSet(held.classes, change(held.images), held.labels, held.hashes, ())
    return AuditData(drawn(0, COUNT), changed, *_halves(held.labels, held.classes, "H", Words()), ())


def nearer_by(factor: float) -> Callable[[Images], Images]:
    """The middle of each image, enlarged."""
    edge = round(SIDE * (1 - 1 / factor) / 2)

    def change(images: Images) -> Images:
        middles = (Image.fromarray(image[edge : SIDE - edge, edge : SIDE - edge]) for image in images)
        return np.stack([np.asarray(middle.resize((SIDE, SIDE), Image.Resampling.LANCZOS)) for middle in middles])

    return change


def redder(images: Images) -> Images:
    return (images * np.array([1.0, 0.85, 0.85])).astype(np.uint8)


@pytest.mark.full
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_images_of_the_same_kind_are_comparable(seed: int) -> None:
    data = beside(lambda images: images, seed)
    outcome, comparable = comparable_test(data, untrained_extractor(data.train))
    assert comparable
    assert outcome.verdict == "WARN"  # 96 images cannot exclude that H differs
    assert outcome.note.endswith("images of H would tell")
    assert reasons([outcome], []) == (f"WARN of comparable hold-out: {outcome.note}.",)


@pytest.mark.parametrize("change", [pytest.param(nearer_by(2), marks=pytest.mark.full), redder])
def test_another_scale_or_other_colours_are_not(change: Callable[[Images], Images]) -> None:
    data = beside(change)
    outcome, comparable = comparable_test(data, untrained_extractor(data.train))
    assert not comparable
    assert outcome.value is not None
    assert outcome.value > MEMBERSHIP_LIMIT
    assert "H shows other images than T" in outcome.note


@pytest.mark.full
def test_chance_is_that_of_permuted_labels() -> None:
    """Of 200 pairs of samples of one distribution hardly any reaches what chance does once in a thousand."""
    rng, labels = np.random.default_rng(0), np.arange(60) % 3
    found = [two_samples(*rng.normal(size=(2, 60, 5)).astype(np.float32), (labels, labels)) for _ in range(200)]
    assert sum(pair.auc > pair.reach for pair in found) <= 2
    shifted = rng.normal(size=(2, 60, 5)).astype(np.float32) + np.array([0, 0.8], np.float32)[:, None, None]
    apart = two_samples(shifted[0], shifted[1], (labels, labels))
    assert apart.auc > max(apart.reach, 0.8)


def blurred(images: Images) -> Images:
    return np.stack([np.asarray(Image.fromarray(i).filter(ImageFilter.GaussianBlur(0.7))) for i in images])


def noisy(images: Images) -> Images:
    noise = np.random.default_rng(0).normal(0, 0.01 * 255, images.shape)  # the scenes are smooth
    return (images + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("change", [np.copy, blurred, noisy, lambda images: np.rot90(images, axes=(1, 2))])
def test_copies_are_found_without_a_hold_out(change: Callable[[Images], Images], tmp_path: Path) -> None:
    data, fresh = beside(nearer_by(2)), drawn(5, 4)
    assert near_copies(AuditedImages("images", fresh.images, fresh.labels), data, None).verdict == "PASS"
    mixed = np.concatenate([fresh.images, change(data.train.images[::40])])
    found = near_copies(AuditedImages("images", mixed, np.zeros(len(mixed), np.int64)), data, tmp_path)
    assert found.verdict == "FAIL"
    assert found.value is not None
    assert found.value >= 4
    assert [path.suffix for path in tmp_path.iterdir()] == [".png"]


def test_a_hold_out_with_near_duplicates_of_its_own_is_a_warning() -> None:
    data = beside(lambda images: np.concatenate([drawn(0, COUNT).images[:1], images[1:]]))
    fresh = drawn(5, 12)
    some = np.concatenate([data.train.images[:1], fresh.images[1:]])
    found = near_copies(AuditedImages("images", some, fresh.labels), data, None)
    assert found.verdict == "WARN"
    assert "1 of 96 of H are near duplicates of T too" in found.note
    copies = AuditedImages("images", data.train.images[:3], data.train.labels[:3])
    assert near_copies(copies, data, None).verdict == "FAIL", "all of them, where one of 96 of H is"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of drawn scenes: for T, for H, H at another scale, fresh images and copies of T under other names."""
    root = tmp_path_factory.mktemp("any-set")
    for name, count, seed in (("train", COUNT, 0), ("held", HELD, 1), ("fresh", 8, 2), ("copies", 8, 0)):
        drawn_scenes(root / name, count, seed)
    for path in (root / "held").rglob("*.png"):
        away = root / "away" / path.relative_to(root / "held")
        away.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(nearer_by(2)(np.asarray(Image.open(path).convert("RGB"))[None])[0]).save(away)
    for number, path in enumerate(sorted((root / "copies").rglob("*.png"))):
        Image.open(path).convert("RGB").rotate(90).save(path.with_name(f"made-{number}.bmp"))
        path.unlink()
    return root


def audited(folders: Path, images: str, held: str) -> Audit:
    return audit(folders / images, train=folders / "train", holdout=folders / held, cache=folders / "cache")


@pytest.mark.full
def test_a_hold_out_that_is_not_comparable_decides_nothing(folders: Path) -> None:
    found = audited(folders, "fresh", "away")
    assert found.verdict == "WARN"
    assert found.reasons[0].startswith("WARN of comparable hold-out: The hold-out can be told from the training images")
    assert "--holdout" in found.reasons[0]
    assert f"NOT RUN: {', '.join(RESTING)}: the hold-out is not comparable." in found.reasons
    assert {test.name for test in found.tests if test.verdict == "NOT RUN"} == set(RESTING)
    assert found.controls == ()


@pytest.mark.parametrize("held", ["away", pytest.param("held", marks=pytest.mark.full)])
def test_copies_fail_beside_any_hold_out(folders: Path, held: str) -> None:
    found = audited(folders, "copies", held)
    assert found.verdict == "FAIL"
    assert found.reasons[0].startswith("FAIL of near duplicates of T, generated images")


def test_the_command_ends_with_4_and_one_object(folders: Path, process_environment: dict[str, str]) -> None:
    given = ["audit", "copies", "--train", "train", "--holdout", "away"]
    done = dpd([*given, "--json"], process_environment, folders)
    assert done.returncode == 4, done.stderr
    record = json.loads(done.stdout)
    assert (record["verdict"], record["audited"]["name"]) == ("FAIL", "copies")
    assert "near duplicates of T, generated images" in done.stderr.splitlines()[-1]
    told = dpd(given, process_environment, folders)
    assert told.returncode == 4, told.stderr
    assert record["summary"][0].endswith("Images show what a training image shows, almost point by point.")
    parts = [*record["summary"], "verdict    FAIL, ", *record["reasons"], LEGEND, "tests that ran"]
    assert told.stdout.startswith("Found by 1 of ")
    places = [told.stdout.index(part) for part in parts]
    assert places == sorted(places), "in plain words, then the verdict and its reasons, then the details"


@pytest.mark.full
def test_fresh_images_of_any_folder_never_fail_and_every_doubt_has_a_reason(folders: Path) -> None:
    found = audited(folders, "fresh", "held")
    assert found.verdict == "WARN"
    assert found.to_dict()["audited"] == {"name": "fresh", "kind": "set", "bundle_hash": None}
    assert {test.name for test in found.tests if test.verdict == "NOT RUN"} >= {"membership", "decoded prototypes"}
    assert len(found.reasons) > 1


def test_folders_that_are_no_set_are_refused_by_name(folders: Path, tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "flat/a.png")
    with pytest.raises(DataError, match="flat"):
        audit(tmp_path / "flat", train=folders / "train", holdout=folders / "held")
    with pytest.raises(DataError, match="are training images"):
        audit(folders / "fresh", train=folders / "train", holdout=folders / "train")
