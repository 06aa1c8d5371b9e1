"""Chosen real images on disk, in the form of a distilled set (DESIGN §8) without a word about their source files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dpd_eval.selection.method import Rows
from dpd_runtime.dataset.folder import SHEET_NAME
from dpd_runtime.dataset.formats import PNG
from dpd_runtime.dataset.sheet import contact_sheet
from dpd_runtime.dataset.state import DATASET_NAME, METADATA_NAME, STATE_NAME, State
from dpd_runtime.dataset.write import file_name, set_hash
from dpd_runtime.files import write_atomically
from dpd_runtime.machine.versions import package_versions, versions
from dpd_runtime.sampling.sampler import BLOCK
from dpd_train.images import SceneSet


def write_folder(
    scenes: SceneSet,
    rows: Rows,
    out: Path,
    about: dict[str, Any],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> str:
    """Write the images `rows` (sorted by class) of `scenes` under `out`, then metadata.jsonl and dataset.json.

    Args:
        about: what the choice depends on; a folder begun with other values is refused, one with the same is redone.

    Returns:
        the set hash.

    Raises:
        OutputFolderError: `out` holds a set made with other settings.
        OSError: the disk is full, read-only or gone.
    """
    # bundle, sampler, seed and classes are what dpd_runtime.dataset.folder knows sets of ours by
    header = {"bundle": None, "sampler": None, **about, "classes": list(scenes.classes)}
    counts = np.bincount(scenes.labels[rows], minlength=len(scenes.classes)).tolist()
    out.mkdir(parents=True, exist_ok=True)
    State(out, header, max(counts))  # from here on the folder is ours, and unfinished
    for name in (DATASET_NAME, METADATA_NAME):
        (out / name).unlink(missing_ok=True)
    records: list[dict[str, Any]] = []
    for name in scenes.classes:
        (out / name).mkdir(exist_ok=True)
    for row in rows:
        label = int(scenes.labels[row])
        index = len(records) - sum(counts[:label])
        name = file_name(scenes.classes[label], index)
        write_atomically(out / name, PNG.encode(scenes.images[row]))
        records.append({"file_name": name, "label": label, "class": scenes.classes[label], "index": index})
        progress(len(records), len(rows))
    chosen = list(zip(records, scenes.images[rows], strict=True))
    digest = set_hash((record["class"], record["index"], pixels) for record, pixels in chosen)
    sheet = [
        (name, [pixels for record, pixels in chosen if record["class"] == name and record["index"] < BLOCK])
        for name in scenes.classes
    ]
    dataset = {
        "set_hash": digest,
        "real_images": True,
        **about,
        "images": len(records),
        "counts": dict(zip(scenes.classes, counts, strict=True)),
        "versions": versions() | package_versions("torch", "transformers", "scikit-learn"),
        "made_with": header,
        "state": "complete",
    }
    write_atomically(out / METADATA_NAME, "".join(json.dumps(record) + "\n" for record in records).encode())
    write_atomically(out / SHEET_NAME, PNG.encode(contact_sheet(sheet)))
    write_atomically(out / DATASET_NAME, (json.dumps(dataset, indent=1) + "\n").encode())
    (out / STATE_NAME).unlink()
    return digest
