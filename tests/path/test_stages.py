"""The stages that a run announces are those that it goes through, and the command numbers them."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dpd_cli.terminal import NumberedStages

pytest.importorskip("torch")
from dpd_train.compute import one_thread
from dpd_train.doors import OtherTuning
from dpd_train.stages import stages_ahead
from dpd_train.train import train
from tests.tiny import CONFIG, drawn_scenes, tiny_base

FEW = {"teacher_steps": 2, "latent_classifier_steps": 2, "watcher_steps": 2, "matching_steps": 2, "vae_steps": 2}
FEW |= {"perceptual_steps": 2, "steps": 0}


def went_through(
    tmp_path: Path, per_class: int = 6, **options: Any
) -> tuple[list[dict[str, str]], list[str], dict[str, Any]]:
    """What a run announced, the stages that moved, each once, and its record."""
    announced: list[dict[str, str]] = []
    moved: list[str] = []

    def progress(title: str) -> Callable[[int, int], None]:
        return lambda done, total: None if title in moved else moved.append(title)

    def announce(ahead: Mapping[str, str]) -> None:
        announced.append(dict(ahead))
        assert len(announced) > 1 or not moved, "announced before the first stage"

    config = replace(CONFIG, base=str(tiny_base(tmp_path)), **FEW | options)
    scenes = drawn_scenes(tmp_path / "scenes", per_class)
    cache = tmp_path / "cache"
    with one_thread():
        record = train(scenes, tmp_path / "run", config, cache=cache, progress=progress, announce=announce)
    return announced, moved, record


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 2, "judge_on": "latents", "lambda_cls": 0.1},
        pytest.param({"steps": 2, "judge_on": "pixels", "lambda_cls": 0.1}, marks=pytest.mark.full),
    ],
)
def test_a_run_goes_through_the_stages_that_it_announced(options: dict[str, Any], tmp_path: Path) -> None:
    announced, moved, record = went_through(tmp_path, **options)
    assert [list(ahead) for ahead in announced] == [moved]
    assert list(record["stages"]) == moved, "the record names them as before"


@pytest.mark.full
def test_watchers_are_one_line_and_their_stages_are_announced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpd_train.matching.VIEWS", 100)
    with caplog.at_level(logging.INFO):
        announced, moved, _ = went_through(tmp_path, 23, prototypes="matched", tune_vae=True)
    assert list(announced[-1]) == moved
    assert {"perceptual networks", "VAE decoder", "watchers", "starting images", "statistics", "matching"} <= {*moved}
    about = [line for line in caplog.messages if "watcher" in line]
    assert len(about) == 1
    assert about[0].startswith("28 watchers are trained: codes are matched in what they see.")
    assert len([line for line in caplog.messages if line.startswith("perceptual networks")]) == 1


@pytest.mark.full
def test_a_decoder_that_the_teacher_asks_for_is_announced_then(tmp_path: Path) -> None:
    """A random VAE's reconstructions are worth nothing to a teacher that knows its classes."""
    announced, moved, record = went_through(tmp_path, 12, teacher_steps=60, tune_vae=None, prototypes="none")
    assert record["metrics"]["decoder_tuned"]
    first, second = map(list, announced)
    assert [title for title in second if title not in first] == ["perceptual networks", "VAE decoder"]
    assert second == moved


def test_stages_that_will_not_run_are_not_listed() -> None:
    """Against the paths through a run that are too long for a test, or need sites and bands."""

    def listed(*, bands: bool = False, tuning: OtherTuning | None = None, **options: Any) -> list[str]:
        config = replace(CONFIG, **options)
        return list(stages_ahead(config, bands=bands, tuned_decoder=False, tuning=tuning))

    assert listed()[0] == "teacher"
    carried = listed(bands=True, prototypes="matched", steps=0)
    assert carried[:3] == ["teacher", "VAE", "encoding"]
    assert "starting images" not in carried, "codes start as noise"
    noisy = {"judge_on": "latents", "lambda_cls": 0.1}
    other = OtherTuning(stage="tuning elsewhere", meaning="by others", decides=(), tune=lambda: None)
    assert listed(tuning=other, **noisy)[-2:] == ["classifier of noisy latents", "tuning elsewhere"]


def test_the_command_numbers_stages_by_their_place(capsys: pytest.CaptureFixture[str]) -> None:
    titles: list[str] = []

    def stage(title: str) -> Callable[[int, int], None]:
        titles.append(title)
        return lambda done, total: None

    numbered = NumberedStages(stage)
    numbered("finding objects")
    numbered.announce({"teacher": "a classifier", "encoding": "makes latents"})
    numbered("teacher")
    numbered.announce({"teacher": "a classifier", "VAE decoder": "is trained", "encoding": "makes latents"})
    numbered("VAE decoder")
    numbered("encoding")
    assert titles == [
        "finding objects",
        "stage 1 of 2: teacher",
        "stage 2 of 3: VAE decoder",
        "stage 3 of 3: encoding",
    ]
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "stage 1 of 2: teacher, a classifier",
        "stage 2 of 2: encoding, makes latents",
        "stage 2 of 3: VAE decoder, is trained",
    ]
