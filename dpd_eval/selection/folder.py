"""Write chosen real images as a distilled set (docs/guides/generate.md), without any trace of their source files."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from dpd_eval.selection.method import Rows
from dpd_runtime.annotations import Progress
from dpd_runtime.dataset.digest import set_hash
from dpd_runtime.dataset.folder import remove_partials
from dpd_runtime.dataset.formats import PNG, folder_name
from dpd_runtime.dataset.sheet import contact_sheet
from dpd_runtime.dataset.state import DATASET_NAME, METADATA_NAME, STATE_NAME, State
from dpd_runtime.files import write_atomically
from dpd_runtime.images.folders import SHEET_NAME
from dpd_runtime.machine.versions import package_versions, versions
from dpd_runtime.sampling.sampler import BLOCK
from dpd_train.images import SceneSet

NOT_GENERATED = {"prototype": None, "candidate": None, "margin": None, "seed": None}
"""What metadata.jsonl says of a generated image only."""


def write_folder(
    scenes: SceneSet,
    rows: Rows,
    out: Path,
    about: dict[str, Any],
    progress: Progress = lambda done, total: None,
) -> str:
    """Write the images `rows` (sorted by class) of `scenes` to `out`, then metadata.jsonl and dataset.json.

    Args:
        about: what the choice depends on. An unfinished folder with other values is refused, one with the same values
            is written again.

    Returns:
        The set hash.

    Raises:
        OutputFolderError: `out` holds a set made with other settings.
        OSError: the disk is full, read-only or gone.
    """
    # dpd_runtime.dataset.folder recognises our sets by bundle, sampler, seed and classes
    header = {"bundle": None, "sampler": None, **about, "classes": list(scenes.classes)}
    counts = np.bincount(scenes.labels[rows], minlength=len(scenes.classes)).tolist()
    out.mkdir(parents=True, exist_ok=True)
    State(out, header, max(counts))  # marks the folder as ours and unfinished
    remove_partials(out, header)
    for name in (DATASET_NAME, METADATA_NAME):
        (out / name).unlink(missing_ok=True)
    records: list[dict[str, Any]] = []
    for name in scenes.classes:
        (out / name).mkdir(exist_ok=True)
    for row in rows:
        label = int(scenes.labels[row])
        index = len(records) - sum(counts[:label])
        name = folder_name(scenes.classes[label], label, index, PNG.suffix)
        write_atomically(out / name, PNG.encode(scenes.images[row]), below=out)
        records.append(
            {"file_name": name, "label": label, "class": scenes.classes[label], "index": index, **NOT_GENERATED}
        )
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
    write_atomically(
        out / METADATA_NAME, "".join(json.dumps(record, allow_nan=False) + "\n" for record in records).encode()
    )
    write_atomically(out / SHEET_NAME, PNG.encode(contact_sheet(sheet)))
    write_atomically(out / DATASET_NAME, (json.dumps(dataset, indent=1, allow_nan=False) + "\n").encode())
    (out / STATE_NAME).unlink()
    return digest
