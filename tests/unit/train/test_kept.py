"""What a record that may leave keeps of options that can name folders."""

from pathlib import Path

import pytest

from dpd_runtime.settings import WITHHELD
from dpd_train.records import kept


@pytest.mark.parametrize(
    "value",
    [
        "own",
        "eyes",
        "tdds:0.7,eyes",
        "untrained",
        "mdfl",
        "hf:google/vit-base",
        "IDEA/dino,facebook/sam2",
        "foreground:IDEA/dino+facebook/sam2,tdds:0.7",
    ],
)
def test_names_are_kept(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("own", "eyes"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert kept(value) == value


@pytest.mark.parametrize(
    "value",
    [
        "hf:~/x",
        "~/x",
        "/p",
        "hf:eyes",
        "swimdiff:eyes",
        "probe:swimdiff:/p",
        "my-ext:/p",
        "mdfl:a,b",
        "foreground:eyes+facebook/sam2",
        "foreground:IDEA/dino+eyes,tdds:0.7",
        300 * "x:",
    ],
)
def test_folders_are_not(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("eyes", "a,b"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert kept(value) == WITHHELD
