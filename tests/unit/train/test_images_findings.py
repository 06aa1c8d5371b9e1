"""What was found, for the start of a run and for quarantine.csv."""

import csv
from pathlib import Path

from dpd_train.reading import HeldOut
from dpd_train.scene_set import Finding, SceneSet, look_over, write_quarantine
from dpd_train.scenes import open_scenes, read_scenes
from tests.painted import paint, tree


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())


def parts_of(root: Path) -> dict[str, SceneSet]:
    return {part: read_scenes(root, part=part, held_out=HeldOut(split="names")) for part in ("train", "val")}


def test_all_well_is_no_word(tmp_path: Path) -> None:
    found = look_over(parts_of(tree(tmp_path, count=5)))
    assert found.counts == {"train": {"Alpha": 4, "Beta": 4}, "val": {"Alpha": 1, "Beta": 1}}
    assert found.messages() == []
    write_quarantine(tmp_path / "quarantine.csv", found)
    assert not (tmp_path / "quarantine.csv").exists()


def test_copies_within_and_across_parts_are_told_apart(tmp_path: Path) -> None:
    root = tmp_path / "data"
    tree(root / "train", count=5)
    tree(root / "test", count=2)  # the same pictures as the first two of train, under the same names
    paint(root / "test" / "Beta" / "new.png", 250)
    copy(root / "train" / "Alpha" / "Alpha_0.png", root / "train" / "Alpha" / "Alpha_00.png")
    copy(root / "train" / "Alpha" / "Alpha_1.png", root / "train" / "Beta" / "Aalike.png")
    copy(root / "train" / "Alpha" / "Alpha_2.png", root / "train" / "Beta" / "zzz.png")  # the last: validation
    (root / "train" / "Alpha" / "Alpha_3.png").write_bytes(b"")
    found = look_over(parts_of(root), {"test": open_scenes(root).hashes("test")})
    assert found.shared == {("train", "val"): 1, ("train", "test"): 4}
    assert found.twice == 1
    assert set(found.copies) == {
        Finding("train", "train/Alpha/Alpha_00.png", "used, with the same bytes as train/Alpha/Alpha_0.png"),
        Finding(
            "train",
            "train/Beta/Aalike.png",
            "used, with the same bytes as train/Alpha/Alpha_1.png, which is another class",
        ),
        Finding(
            "val",
            "train/Beta/zzz.png",
            "used, with the same bytes as train/Alpha/Alpha_2.png in train, which is another class",
        ),
        *(
            Finding("test", f"test/{name}", f"used, with the same bytes as train/{name} in train")
            for name in ("Alpha/Alpha_0.png", "Alpha/Alpha_1.png", "Beta/Beta_0.png", "Beta/Beta_1.png")
        ),
    }
    assert found.messages() == [
        "val shares 1 image with train, byte for byte: figures on val are too high",
        "test shares 4 images with train, byte for byte: figures on test are too high",
        "1 image under two classes at once, byte for byte: the labels contradict each other",
        "1 file of train left out, first train/Alpha/Alpha_3.png: empty file",
    ]
    write_quarantine(tmp_path / "quarantine.csv", found)
    with (tmp_path / "quarantine.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert lines[0] == {"part": "train", "path": "train/Alpha/Alpha_3.png", "reason": "empty file"}
    assert len(lines) == 1 + len(found.copies)


def test_unreadable_test_files_and_absent_test_parts(tmp_path: Path) -> None:
    root = tree(tmp_path / "flat")
    assert open_scenes(root).hashes("test") == {}
    tree(tmp_path / "parts" / "train")
    tree(tmp_path / "parts" / "test", count=1)
    (tmp_path / "parts" / "test" / "Beta" / "b.png").write_bytes(b"")
    assert list(open_scenes(tmp_path / "parts").hashes("test")) == ["test/Alpha/Alpha_0.png", "test/Beta/Beta_0.png"]


def test_links_out_of_the_folder_are_told(tmp_path: Path) -> None:
    root = tree(tmp_path / "data")
    (root / "Alpha" / "A.png").symlink_to(paint(tmp_path / "elsewhere.png", 77))
    assert look_over(parts_of(root)).messages() == [
        "links to files outside the data folder: 1 image, first Alpha/A.png; remove those that are not meant"
    ]
