"""Folder trees as people have them: every image below is read, told of, or stops the reading."""

import logging
import re
from pathlib import Path

import numpy as np
import pytest

from dpd_runtime.errors import DataError
from dpd_runtime.image_folders import OF_SYSTEMS
from dpd_train.scenes import open_scenes, read_scenes
from dpd_train.sources import EMPTY, PART_NAMES
from tests.painted import greys, paint, tree

HOLDS = re.compile(r"holds (\d+) images?\b")


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev", "Val", "VALIDATION"])
def test_validation_images_are_those_of_the_folder_however_it_is_called(tmp_path: Path, name: str) -> None:
    tree(tmp_path / "Training")
    tree(tmp_path / name, count=2)
    tree(tmp_path / "Testing", count=1)
    assert open_scenes(tmp_path).parts == ("train", "val", "test")
    assert greys(read_scenes(tmp_path, part="train")) == [0, 1, 2, 3, 100, 101, 102, 103]
    assert greys(read_scenes(tmp_path, part="val")) == [0, 1, 100, 101]
    assert open_scenes(tmp_path).counts("test") == {"Alpha": 1, "Beta": 1}


def test_a_class_may_be_called_like_a_part(tmp_path: Path) -> None:
    tree(tmp_path, classes=("Dev", "Valid"))
    assert open_scenes(tmp_path).counts("all") == {"Dev": 4, "Valid": 4}


@pytest.mark.parametrize(
    ("beside", "words"),
    [
        ("valid/Alpha/a.png", "val/ and valid/ would both be the part val"),
        ("Alpha/a.png", "Alpha/ holds 1 image, first Alpha/a.png, beside train/, which has this class too; move them"),
        (
            "hold/Beta/a.png",
            "hold/ holds 1 image, first hold/Beta/a.png, of the same classes, .* call it test/",
        ),
        ("train/Alpha/2023/a.png", "Alpha: has 4 images directly inside and 1 in folders inside, first 2023/a.png"),
        ("train/Gamma/x/y/a.png", r"Gamma: has no images .* 1 in folders inside, first x/y/a\.png; if 'Gamma' is the"),
    ],
)
def test_images_that_seem_to_be_meant_for_a_part_stop_the_reading(tmp_path: Path, beside: str, words: str) -> None:
    for part in ("train", "val"):
        tree(tmp_path / part)
    paint(tmp_path / beside, 50)
    with pytest.raises(DataError, match=words):
        open_scenes(tmp_path).counts("train")


def test_validation_images_without_classes_stop_the_reading(tmp_path: Path) -> None:
    tree(tmp_path / "train")
    paint(tmp_path / "valid" / "a.png", 50)
    with pytest.raises(DataError, match=r"valid/ holds 1 image, .* but no class folders; put them into valid/CLASS"):
        open_scenes(tmp_path).counts("train")


def test_other_images_beside_parts_and_classes_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree(tmp_path / "train")
    for name in ("preview.png", "train/sheet.png", "masks/a.png", "masks/deep/b.png", "test/1.png", "__old/c.png"):
        paint(tmp_path / name, 50)
    for _ in range(2):
        assert greys(read_scenes(tmp_path, part="all")) == [0, 1, 2, 3, 100, 101, 102, 103]
    lines = sorted(record.getMessage() for record in caplog.records)
    shown = [line.removeprefix(str(tmp_path)).split(":")[0] for line in lines]
    assert shown == [
        " holds 1 image beside train/, first preview.png",
        "/__old holds 1 image, first __old/c.png",
        "/masks holds 2 images, first masks/a.png",
        "/test holds 1 image, first test/1.png",
        "/train holds 1 image beside the class folders, first sheet.png",
    ]


def test_what_systems_leave_is_no_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree(tmp_path)
    for name in ("._Alpha_0.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
        for folder in (tmp_path, tmp_path / "Alpha"):
            (folder / name).write_bytes(b"\0")
    for name in ("@eaDir/a.png", "__MACOSX/Alpha/a.png", "$RECYCLE.BIN/a.png", ".cache/a.png", "lost+found/a.png"):
        for folder in (tmp_path, tmp_path / "Alpha"):
            paint(folder / name, 50)
    assert greys(read_scenes(tmp_path, part="all")) == [0, 1, 2, 3, 100, 101, 102, 103]
    assert not caplog.records


def test_links_inside_a_class(tmp_path: Path) -> None:
    root = tree(tmp_path / "scenes")
    (root / "Alpha" / "same").symlink_to(root / "Beta")
    (root / "Alpha" / "loop").symlink_to(root / "Alpha")
    assert open_scenes(root).counts("all") == {"Alpha": 4, "Beta": 4}, "these images are read as Beta and Alpha"
    tree(tmp_path / "elsewhere")
    (root / "Alpha" / "more").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="has 4 images directly inside and 8 in folders inside, first more/Alpha"):
        open_scenes(root).counts("all")


def test_folders_that_read_alike_are_one_class(tmp_path: Path) -> None:
    composed, decomposed = "For\u00eat", "Fore\u0302t"
    tree(tmp_path / "train", classes=(composed, "Mer"))
    tree(tmp_path / "val", count=2, classes=(decomposed, "Mer"))
    train, val = (read_scenes(tmp_path, part=part) for part in ("train", "val"))
    assert train.classes == val.classes == (composed, "Mer")
    assert greys(val) == [0, 1, 100, 101]
    paint(tmp_path / "train" / decomposed / "a.png", 50)
    with pytest.raises(DataError, match=r"two folders read 'Forêt' .*; move their images into one"):
        open_scenes(tmp_path).counts("train")


@pytest.mark.parametrize("seed", range(60))
def test_every_image_is_accounted_for(tmp_path: Path, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """Of random trees: images read and images told of are all there are, or the reading stops."""
    rng = np.random.default_rng(seed)
    names = ["train", "val", "Valid", "dev", "test", "Alpha", "Beta", "Gamma", "2023", "__x", "masks"]
    tree(tmp_path / ("train" if seed % 2 else ""))
    for number in range(rng.integers(1, 5)):
        depth = rng.integers(0, 4)
        paint(tmp_path.joinpath(*rng.choice(names, depth), f"more_{number}.png"), 50)
    caplog.set_level(logging.WARNING)
    try:
        read = len(read_scenes(tmp_path, part="all").labels)
    except DataError:
        return
    told = sum(int(HOLDS.search(record.getMessage())[1]) for record in caplog.records)  # type: ignore[index]
    assert read + told == sum(1 for _ in tmp_path.rglob("*.png"))


def test_the_page_names_what_is_understood() -> None:
    """docs/reference/data.md, of folders and lists."""
    page = Path("docs/reference/data.md").read_text(encoding="utf-8").casefold()
    words = {
        *(name for names in PART_NAMES.values() for name in names),
        *OF_SYSTEMS,
        *(EMPTY - {"NAN", "NULL", "#N/A"}),
    }
    assert sorted(word for word in words if f"`{word.casefold()}`" not in page) == []
