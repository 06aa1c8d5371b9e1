"""The whole audit of a tiny run, its bundle and a set made from it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
import torch
from PIL import Image

from dpd_eval.audit import overfitted_denoiser
from dpd_eval.report_records import read_audit
from dpd_eval.subject import open_audited, read_data, subject_of
from dpd_eval.verdict import Audit, Outcome, check_verdict, family_of, write_record
from dpd_export import ExportOptions, export_run
from dpd_neighbours.swimdiff.folder import save_encoder
from dpd_runtime.bundle import load_bundle
from dpd_runtime.dataset import write_set
from dpd_runtime.errors import AuditError, DataError, InputError
from dpd_runtime.generation import generate
from dpd_runtime.solvers import schedule_from_config
from dpd_train.networks import ResNet, ResNetConfig
from dpd_train.reading import HeldOut
from dpd_train.scenes import open_scenes
from tests.audits import audit
from tests.tiny import tiny_run

pytestmark = pytest.mark.full  # a run, an export and three audits
TWO_HELD = HeldOut(val_per_class=2)
HELD = {"held_out": TWO_HELD, "images": 20}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("audit")
    export_run(tiny_run(place), place / "tiny.dpd", ExportOptions(name="tiny", precision="fp32"))
    return place


@pytest.fixture(scope="module")
def of_bundle(folder: Path) -> Audit:
    return audit(
        folder / "tiny.dpd",
        train=folder / "scenes",
        run=folder / "run",
        private=folder / "pairs",
        cache=folder / "cache",
        **HELD,
    )


def test_a_bundle_has_every_test_and_control(of_bundle: Audit, folder: Path) -> None:
    names = [test.name for test in of_bundle.tests]
    for wanted in (
        "replication, generated images, structure",
        "nearer to T than to H, generated images, teacher features",
        "replication, decoded prototypes, teacher features through the VAE",
        "artefact scan",
        "membership of the teacher, loss: AUC",
        "membership of the latent classifier, confidence: AUC",
        "membership of the VAE decoder, reconstruction: AUC",
        "membership of the prototypes, correlation: AUC",
        "membership of the denoiser, SecMI: AUC",
    ):
        assert wanted in names
    assert [name for name in names if family_of(name) is None] == [], "every test can be explained"
    controls = {control.name: control for control in of_bundle.controls}
    assert not controls["replication, T replayed, structure"].wrong
    assert any("over-fitted" in name for name in controls)
    (averaged,) = [control for name, control in controls.items() if "means of ten images" in name]
    assert not averaged.wrong
    compared = [test for test in of_bundle.tests if test.name.startswith(("replication", "nearer"))]
    assert all(test.power is not None or test.verdict == "NOT RUN" for test in compared)
    assert any(test.verdict != "NOT RUN" for test in compared)
    scan = next(test for test in of_bundle.tests if test.name == "artefact scan")
    assert scan.verdict == "PASS", scan.note
    assert sorted(path.suffix for path in (folder / "pairs").iterdir())[0] == ".png"


def test_the_record_tells_no_path_and_the_report_reads_it(of_bundle: Audit, folder: Path) -> None:
    record = of_bundle.to_dict()
    said = json.dumps(record)
    assert str(folder) not in said
    assert not any(name in said for name in ("scenes", ".png", "/"))
    read = read_audit(json.loads(said), "tiny", "audit.json")
    assert read.verdict == of_bundle.verdict
    assert [test.name for test in read.tests] == [test.name for test in of_bundle.tests]
    assert len(read.controls) == len(of_bundle.controls)


def test_an_audited_bundle_opens_and_says_so(of_bundle: Audit, folder: Path) -> None:
    written = write_record(of_bundle, load_bundle(folder / "tiny.dpd"), folder / "audited.dpd")
    bundle = load_bundle(folder / "audited.dpd")
    assert bundle.manifest.audit == of_bundle.verdict
    assert bundle.hash == written["bundle_hash"]
    assert json.loads(bundle.files["audit.json"])["audited"]["bundle_hash"] == load_bundle(folder / "tiny.dpd").hash


def test_a_verdict_is_written_into_the_bundle_that_was_audited(of_bundle: Audit, folder: Path, tmp_path: Path) -> None:
    by_place = write_record(of_bundle, folder / "tiny.dpd", tmp_path / "audited.dpd")
    assert by_place == write_record(of_bundle, load_bundle(folder / "tiny.dpd"), tmp_path / "audited.dpd")
    with pytest.raises(InputError, match="is not the bundle that was audited; audit it again"):
        write_record(of_bundle, tmp_path / "audited.dpd", tmp_path / "again.dpd")


def test_few_images_are_a_warning_and_other_data_too(of_bundle: Audit, folder: Path) -> None:
    assert next(t for t in of_bundle.tests if t.name == "number of images").verdict == "WARN"
    assert any(reason.endswith("a larger --images, or a larger set.") for reason in of_bundle.reasons)
    assert "training data" not in [t.name for t in of_bundle.tests]
    other = audit(
        folder / "run",
        train=folder / "scenes",
        held_out=HeldOut(val_per_class=3),
        images=10,
        cache=folder / "cache",
    )
    assert next(t for t in other.tests if t.name == "training data").verdict == "WARN"
    assert any("give --train, --val-per-class, --split and --groups" in reason for reason in other.reasons)
    assert next(t for t in other.tests if t.name == "artefact scan").verdict == "NOT RUN"
    assert other.verdict != "PASS"


def test_a_run_and_its_bundle_are_judged_alike(of_bundle: Audit, folder: Path) -> None:
    of_run = audit(folder / "run", train=folder / "scenes", cache=folder / "cache", **HELD)
    ours, theirs = ({test.name: test.value for test in result.tests} for result in (of_run, of_bundle))
    for name, value in theirs.items():
        if name.startswith("membership") and value is not None:
            assert ours[name] == pytest.approx(value, abs=0.03), name
    assert "audit" in write_record(of_run, open_audited(folder / "run"), None)
    assert json.loads((folder / "run" / "audit.json").read_text())["verdict"] == of_run.verdict


def test_a_set_lists_what_cannot_run(folder: Path) -> None:
    write_set(generate(load_bundle(folder / "tiny.dpd"), ipc=2), folder / "set")
    found = audit(
        folder / "set",
        train=folder / "scenes",
        held_out=HeldOut(val_per_class=2),
        cache=folder / "cache",
    )
    assert {t.name for t in found.tests if t.verdict == "NOT RUN"} >= {"membership", "decoded prototypes"}
    assert found.verdict in ("WARN", "FAIL")
    with pytest.raises(InputError, match="no effect on a set"):
        audit(folder / "set", train=folder / "scenes", run=folder / "run")
    for given in ({"images": 5}, {"seed": 1}):
        with pytest.raises(InputError, match="has no effect on a set: all its images are tested"):
            audit(folder / "set", train=folder / "scenes", **given)


def test_a_further_extractor_adds_spaces_and_takes_none_away(of_bundle: Audit, folder: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_encoder(
            ResNet(ResNetConfig(num_classes=4, widths=(8, 16), blocks=(1, 1))), folder / "eyes", {"resolution": 32}
        )
    found = audit(
        folder / "tiny.dpd",
        train=folder / "scenes",
        run=folder / "run",
        extractor=f"swimdiff:{folder / 'eyes'}",
        private=folder / "further",
        cache=folder / "cache",
        **HELD,
    )
    before, now = ({test.name for test in result.tests} for result in (of_bundle, found))
    assert before < now
    added = {name.partition(", ")[2] for name in now - before}
    sets = ("generated images", "decoded prototypes")
    assert added == {f"{what}, features of swimdiff:eyes{end}" for what in sets for end in ("", " through the VAE")}
    controls = {control.name: control for control in found.controls}
    assert not controls["replication, T replayed, features of swimdiff:eyes"].wrong
    assert found.to_dict()["further_extractor"].startswith("swimdiff:eyes: ResNet 8-16")
    assert "further_extractor" not in of_bundle.to_dict()
    assert "/" not in json.dumps(found.to_dict())
    assert (folder / "further" / "generated-images-features-of-swimdiff-eyes.png").is_file()
    with pytest.raises(InputError, match="--extractor own has no effect"):
        audit(folder / "run", train=folder / "scenes", extractor="own")


def test_a_hold_out_that_was_trained_on_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="are training images"):
        audit(
            folder / "run",
            train=folder / "scenes",
            holdout=folder / "scenes",
            held_out=HeldOut(val_per_class=2),
        )


def test_samples_are_as_many_of_each_class_on_both_sides(folder: Path) -> None:
    classes = subject_of(open_audited(folder / "tiny.dpd")).classes
    data = read_data(open_scenes(folder / "scenes", TWO_HELD), None, classes=classes, resolution=32)
    members, others = data.members(1000)
    counts = [np.bincount(s.labels[r]).tolist() for s, r in ((data.train, members), (data.held, others))]
    assert counts[0] == counts[1] == [2] * len(classes)
    assert sorted([*data.first, *data.second]) == list(range(len(data.held.labels)))


def test_the_hold_out_has_one_image_of_each_scene(folder: Path, tmp_path: Path) -> None:
    """Turned copies in H would make its halves alike, and its intervals narrower than they are."""
    classes = subject_of(open_audited(folder / "tiny.dpd")).classes
    for image in (folder / "scenes").rglob("*.png"):
        (tmp_path / "turned" / image.parent.name).mkdir(parents=True, exist_ok=True)
        for turn in range(2):
            place = tmp_path / "turned" / image.parent.name / f"{image.stem}_{turn}.png"
            Image.open(image).convert("RGB").rotate(90 * turn).save(place)
    plain, turned = (
        read_data(open_scenes(data, TWO_HELD), None, classes=classes, resolution=32)
        for data in (folder / "scenes", tmp_path / "turned")
    )
    assert np.bincount(turned.held.labels).tolist() == np.bincount(plain.held.labels).tolist() == [2] * len(classes)
    assert len(turned.train.labels) == 2 * len(plain.train.labels), "each of them is looked for"
    assert plain.notes[0] == f"H is the validation part of --train: 12 images; T has {len(plain.train.labels)}"
    assert turned.notes[0] == f"H is the validation part of --train: 12 images; T has {len(turned.train.labels)}, " + (
        f"which show {len(plain.train.labels)} distinct scenes"
    )
    assert "12 images of H were left out as turned, mirrored or near duplicates of others in H" in turned.notes


def test_the_control_is_trained_once(tmp_path: Path) -> None:
    schedule = schedule_from_config({"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2"})
    latents = np.random.default_rng(0).normal(size=(10, 2, 4, 4)).astype(np.float32)
    first, second = (overfitted_denoiser(latents, schedule, tmp_path) for _ in range(2))
    assert (first.cached, second.cached) == (False, True)
    assert first.seconds == second.seconds
    nothing = np.zeros((10, 1, 1), np.float32)
    assert np.array_equal(*(made.denoise(latents, 100, nothing) for made in (first, second)))


def test_a_failed_audit_is_an_error_of_its_own(of_bundle: Audit) -> None:
    bad = Outcome("replication, generated images, structure", 0.5, (0.4, 0.6), 0.02, "FAIL")
    with pytest.raises(AuditError, match="1 of its tests: replication, generated images, structure") as caught:
        check_verdict(replace(of_bundle, verdict="FAIL", tests=(bad,), controls=()))
    assert caught.value.exit_code == 4
    check_verdict(replace(of_bundle, verdict="WARN"))
