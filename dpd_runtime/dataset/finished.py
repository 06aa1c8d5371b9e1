"""A set between finished and unfinished: is all of it there, and what has to go before it is worked on."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from dpd_runtime.dataset.formats import UNFINISHED_NAME, Output
from dpd_runtime.dataset.state import DATASET_NAME, METADATA_NAME, STATE_NAME, other_settings
from dpd_runtime.errors import OutputFolderError
from dpd_runtime.files import PARTIAL
from dpd_runtime.generation.teacher import SOFT_LABELS_NAME


def begin_again(out: Path, output: Output) -> None:
    """From here on the set is unfinished: what was made of all images together goes, lest it be taken for whole."""
    for name in (DATASET_NAME, METADATA_NAME, SOFT_LABELS_NAME):
        (out / name).unlink(missing_ok=True)
    for path in out.iterdir():
        if output.kind.files.fullmatch(path.name.removesuffix(PARTIAL)):
            path.unlink()


def file_hash(path: Path) -> str | None:
    """sha256 of the file's bytes, or None where there is no file."""
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


def finished_set(out: Path, header: dict[str, Any], ipc: int, output: Output) -> dict[str, Any] | None:
    """dataset.json of a complete set whose pixels are no longer at hand, its files as they were written; else None.

    Raises:
        OutputFolderError: made with other settings, or to be changed in a way that needs the pixels.
    """
    if (out / STATE_NAME).exists() or not (out / DATASET_NAME).exists():
        return None
    dataset: dict[str, Any] = json.loads((out / DATASET_NAME).read_text(encoding="utf-8"))
    if dataset["made_with"] != header:
        raise other_settings(out, dataset["made_with"], header)
    kind = " ".join((output.format, *([output.encoding.name] if output.kind.encodes else ())))
    for found, wanted, what in (
        (dataset.get("ipc"), ipc, f"{dataset.get('ipc')} images per class"),
        (dataset.get("soft_labels"), output.soft_labels, f"{'' if dataset.get('soft_labels') else 'no '}soft labels"),
    ):
        if found != wanted:
            reason = f"holds a complete {kind} set with {what}, which cannot change as its pixels are not kept"
            raise OutputFolderError(out, reason, removable=True)
    files = dict(dataset.get("files", {}))
    if METADATA_NAME not in files or any(file_hash(out / name) != digest for name, digest in files.items()):
        return None
    records = map(json.loads, (out / METADATA_NAME).read_text(encoding="utf-8").splitlines())
    images = {r["file_name"]: r["file_sha256"] for r in records if "file_sha256" in r}
    if any(file_hash(out / name) != digest for name, digest in images.items()):
        return None
    remove_unfinished(out)  # what a kill in the last moment leaves
    return dataset


def packed_format(folder: Path) -> str | None:
    """The format of a distilled set that has no class folders; None for whatever else the folder is."""
    try:
        found = json.loads((folder / DATASET_NAME).read_text(encoding="utf-8")).get("format", Output.format)
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return None if found == Output.format else str(found)


def remove_unfinished(out: Path) -> None:
    """The folder of images that waited to be packed."""
    if (out / UNFINISHED_NAME).exists():
        shutil.rmtree(out / UNFINISHED_NAME)
