"""What an unfinished run remembers between its sessions."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dpd_runtime.errors import InputError
from dpd_train.config import TrainConfig
from dpd_train.run import STORED, Unfinished, check_run_folder, match_config, read_unfinished


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
