"""An option that contradicts the data card is refused by every command that opens scenes, before PyTorch is loaded."""

from pathlib import Path

import pytest

pytest.importorskip("torch")  # which draws the scenes
from dpd_train.data_card import write_card
from tests.commands import dpd
from tests.tiny import drawn_scenes

COMMANDS = {
    "check": ("check", "scenes"),
    "train": ("train", "scenes", "--out", "run"),
    "distill": ("distill", "scenes", "--out", "site.dpd"),
    "private": ("private", "scenes", "--out", "site.dpd", "--epsilon", "1"),
    "select": ("select", "scenes", "--method", "random", "--ipc", "1", "--out", "set"),
    "evaluate": ("evaluate", "scenes", "--train", "scenes", "--test", "val"),
    "audit": ("audit", "scenes", "--train", "scenes"),
    "fit": ("fit", "scenes", "--own", "scenes", "--out", "model"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card")
    write_card(drawn_scenes(folder / "scenes", per_class=4), {"val_per_class": 2})
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_an_option_that_says_something_else(command: str, folder: Path, process_environment: dict[str, str]) -> None:
    before = sorted(folder.iterdir())
    done = dpd([*COMMANDS[command], "--val-per-class", "1"], process_environment, folder)
    place = Path("scenes", "dpd.toml")
    says = f"--val-per-class 1: {place} says val_per_class = 2; leave the option out, or change that file"
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, f"dpd: {says}")
    assert sorted(folder.iterdir()) == before
