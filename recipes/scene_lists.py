"""Parts of a folder of images, written as a list without copying an image."""

import csv
from collections.abc import Sequence
from pathlib import Path

from dpd_runtime.annotations import Int64
from dpd_train.scene_set import SceneSet

COLUMNS = ("path", "label", "split")


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
