"""Parts of a folder of images: read, or written as a list or a folder without copying an image."""

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path

from dpd_runtime.annotations import Int64
from dpd_train.held_out import HeldOut
from dpd_train.images import SceneSet, read_scenes

COLUMNS = ("path", "label", "split")
SIDE = 64


def read_parts(data: Path, val_per_class: int | None) -> tuple[SceneSet, SceneSet]:
    """The training part and the validation part of `data`, at 64 px; without a number, its own validation part."""
    held_out = HeldOut() if val_per_class is None else HeldOut(val_per_class=val_per_class, split="names")
    train, held = (read_scenes(data, part=part, resolution=SIDE, held_out=held_out) for part in ("train", "val"))
    return train, held


def entries(scenes: SceneSet, rows: Int64) -> list[tuple[str, str]]:
    """Path and class of images."""
    return [(scenes.paths[row], scenes.classes[scenes.labels[row]]) for row in rows]


def write_list(path: Path, images: Path, rows: Sequence[Sequence[str]]) -> None:
    """Write the list `path`, and images/ beside it as a link to `images`, which its paths may not leave by name.

    Args:
        rows: path in the folder of images, label and, in all rows or none, split.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    link = path.parent / "images"
    if not link.is_symlink():
        link.symlink_to(images.resolve(), target_is_directory=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS[: len(rows[0])])
        table.writerows((Path("images", name), *others) for name, *others in rows)


def link_tree(folder: Path, images: Path, rows: Sequence[tuple[str, str, str]]) -> None:
    """Make FOLDER/part/class/ anew, with a link to each image.

    Args:
        rows: path in the folder of images, class and part. An image may be in several parts.
    """
    draft = folder.with_suffix(".part")
    shutil.rmtree(draft, ignore_errors=True)
    for name, label, part in rows:
        place = draft / part / label / name.replace("/", "-")
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        place.symlink_to((images / name).resolve())
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
