"""What an unfinished run remembers between its sessions."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from dpd_runtime.errors import InputError
from dpd_train.config import TrainConfig
from dpd_train.run import folder as run_folder
from dpd_train.run.folder import STORED, Stopwatch, Unfinished, check_run_folder, match_config, read_unfinished


def test_seconds_of_sessions_add_up(tmp_path: Path) -> None:
    path = tmp_path / "seconds.json"
    path.write_text("100.0")
    watch = Stopwatch(path)
    time.sleep(0.2)
    assert 100.2 <= watch.seconds < 110
    watch.keep()
    assert Stopwatch(path).seconds >= 100.2
    path.write_text("torn")
    assert Stopwatch(path).seconds < 10


def test_progress_keeps_the_time_and_announces_only_what_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "TICK", 0.0)
    announced: list[str] = []
    moved: list[tuple[int, int]] = []

    def stages(title: str) -> run_folder.Progress:
        announced.append(title)
        return lambda done, total: moved.append((done, total))

    watch = Stopwatch(tmp_path / "seconds.json")
    progress = watch.around(stages)
    idle, busy = progress("idle"), progress("busy")
    assert (announced, watch.stage) == ([], "")
    busy(1, 3)
    busy(2, 3)
    assert (announced, moved, watch.stage) == (["busy"], [(1, 3), (2, 3)], "busy")
    assert (tmp_path / "seconds.json").exists()
    assert callable(idle)


def test_a_resumed_run_must_be_the_same_run(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    config = TrainConfig()
    match_config(tmp_path, config, {"sha256": "a"})
    match_config(tmp_path, config, {"sha256": "a"})
    with pytest.raises(InputError, match="another --tune, --k-min"):
        match_config(tmp_path, replace(config, k_min=5, tune="lora"), {"sha256": "a"})
    with pytest.raises(InputError, match="other data"):
        match_config(tmp_path, config, {"sha256": "b"})


def test_an_unfinished_run_says_with_what_it_was_begun(tmp_path: Path) -> None:
    run = tmp_path / "my run"
    (run / "checkpoints").mkdir(parents=True)
    assert read_unfinished(run, {"steps": 3}) is None
    config = TrainConfig(steps=3, captioner="attributes")
    match_config(run, config, {"sha256": "a"}, tmp_path / "scenes", tmp_path / "cache")
    assert read_unfinished(run, {}) == Unfinished(config, tmp_path / "scenes", tmp_path / "cache")
    assert read_unfinished(run, {"steps": 3}) == read_unfinished(run, {})
    with pytest.raises(InputError, match=r"--steps 4: the unfinished run in .* has 3; leave the option out"):
        read_unfinished(run, {"steps": 4})
    with pytest.raises(InputError, match=rf"continue it with: dpd train --resume --out '{run}'"):
        check_run_folder(run, resume=False)
    stored = json.loads((run / STORED).read_text())
    stored["config"]["option_of_tomorrow"] = 1
    (run / STORED).write_text(json.dumps(stored))
    with pytest.raises(InputError, match="another version of dpd"):
        read_unfinished(run, {})


def test_foreign_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    check_run_folder(tmp_path / "mine", resume=False)
    (tmp_path / "mine" / "thesis.txt").write_text("four years")
    with pytest.raises(InputError, match="holds no unfinished run"):
        check_run_folder(tmp_path / "mine", resume=True)
    with pytest.raises(InputError, match="is a file"):
        check_run_folder(tmp_path / "mine" / "thesis.txt", resume=False)
