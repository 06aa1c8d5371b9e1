"""Trackers: the figures of a run in TensorBoard's own files, read here record by record."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from dpd_runtime.errors import InputError
from dpd_train.config import TRAININGS
from dpd_train.pretrain import PretrainConfig, pretrain
from dpd_train.tracking import check_tracker, tracked
from dpd_train.train import train
from tests.tiny import CONFIG, drawn_scenes, tiny_base


def _scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Name → step → value of every event file: records are length, its checksum, an Event message, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, dict[int, float]] = {}
    for path in folder.rglob("events.out.tfevents.*"):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(value.tag, {})[event.step] = value.simple_value
            content = content[16 + length :]
    return found


@pytest.mark.full
def test_tensorboard_holds_losses_rate_and_config(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    config = replace(CONFIG, base=str(tiny_base(tmp_path)), steps=12, teacher_steps=2, latent_classifier_steps=2)
    scenes, run = drawn_scenes(tmp_path / "scenes"), tmp_path / "run"
    train(scenes, run, config, cache=tmp_path / "cache", tracker="tensorboard")
    found = _scalars(run / "tracker")
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert found["validation_loss"] == pytest.approx({entry["step"]: entry["validation_loss"] for entry in log})
    assert found["loss"].keys() == found["rate"].keys() == {entry["step"] for entry in log} | {10}
    assert found["rate"][2] == pytest.approx(2 / 3 * 1e-4)  # step 2 of a warm-up of 3
    options = next((run / "tracker").rglob("hparams.yml")).read_text()
    assert "batch: 4\n" in options
    assert "seed: 0\n" in options


@pytest.mark.full
def test_tensorboard_holds_the_losses_of_a_base(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    scenes, few = drawn_scenes(tmp_path / "scenes"), {"steps": 4, "batch": 4}
    parts = {name: replace(getattr(PretrainConfig(), name), **few) for name in TRAININGS}
    config = PretrainConfig(resolution=32, val_per_class=2, start=str(tiny_base(tmp_path)), **parts)
    pretrain(scenes, tmp_path / "base", tmp_path / "state", config, TRAININGS, tracker="tensorboard")
    found = _scalars(tmp_path / "state" / "tracker")
    assert found["loss"].keys() == found["rate"].keys() == found["validation_loss"].keys() == {4}
    options = next((tmp_path / "state" / "tracker").rglob("hparams.yml")).read_text()
    assert "denoiser_batch: 4\n" in options


def test_no_tracker_is_the_default_and_leaves_nothing(tmp_path: Path) -> None:
    check_tracker(None)
    with tracked(None, tmp_path / "tracker", {}) as track:
        assert track is None
    assert not (tmp_path / "tracker").exists()


def test_unknown_and_missing_trackers_are_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dpd_train import tracking

    config = replace(CONFIG, base=str(tiny_base(tmp_path)))
    with pytest.raises(InputError, match=r"--tracker 'excel' is unknown: use .*tensorboard.*wandb"):
        train(tmp_path / "scenes", tmp_path / "run", config, tracker="excel")
    monkeypatch.setattr(tracking, "find_spec", lambda name: name == "accelerate" or None)  # as if it were alone
    for name, package in (("wandb", "wandb"), ("comet_ml", "comet-ml"), ("tensorboard", "tensorboard")):
        with pytest.raises(InputError, match=f"--tracker {name} is not installed: pip install {package}$"):
            train(tmp_path / "scenes", tmp_path / "run", config, tracker=name)
    assert not (tmp_path / "run").exists()


def test_the_trackers_are_those_of_accelerate() -> None:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    from dpd_train.tracking import TRACKERS

    assert set(LOGGER_TYPE_TO_CLASS) <= set(TRACKERS)
    available = {str(name) for name in get_available_trackers()}
    for name in TRACKERS:
        if name in available:
            check_tracker(name)
        else:
            with pytest.raises(InputError, match=f"--tracker {name} is not installed"):
                check_tracker(name)
