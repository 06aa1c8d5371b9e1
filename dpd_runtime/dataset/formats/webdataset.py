"""WebDataset: tar files that are read sequentially.

A sample consists of the members with one key: the image, `cls` (label), `json` (its line of metadata.jsonl) and, with
soft labels, `soft_labels.npy`. A key is LABEL_INDEX, because class names may have dots, which end a key.
"""

import io
import json
import re
import tarfile
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np

from dpd_runtime.dataset.formats.format import Contents, Format, Sample
from dpd_runtime.files import open_atomically

SHARD = 1000  # images


def _name(class_name: str, label: int, index: int, suffix: str) -> str:
    return f"{label:05d}_{index:05d}{suffix}"


def _members(sample: Sample, contents: Contents) -> Iterator[tuple[str, bytes]]:
    name = str(sample.record["file_name"])
    key = name.removesuffix(contents.encoding.suffix)
    yield name, contents.encoding.encode(sample.pixels)
    yield f"{key}.cls", str(sample.record["label"]).encode()
    yield f"{key}.json", json.dumps(sample.record, allow_nan=False).encode()
    if sample.soft_label is not None:
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, sample.soft_label, allow_pickle=False)
        yield f"{key}.soft_labels.npy", buffer.getvalue()


def pack(samples: Iterator[Sample], out: Path, contents: Contents) -> list[str]:
    """Write shard-000000.tar and so on, with SHARD images each and the rest in the last one."""
    names: list[str] = []
    for first in samples:
        name = f"shard-{len(names):06d}.tar"
        with (
            open_atomically(out / name) as handle,
            tarfile.open(fileobj=handle, mode="w", format=tarfile.USTAR_FORMAT) as shard,
        ):
            for sample in chain([first], islice(samples, SHARD - 1)):
                for member, content in _members(sample, contents):
                    entry = tarfile.TarInfo(
                        member
                    )  # owner, group and time are 0, so that equal samples give equal bytes
                    entry.size = len(content)
                    shard.addfile(entry, io.BytesIO(content))
        names.append(name)
    return names


WEBDATASET = Format("webdataset", pack, re.compile(r"shard-\d{6,}\.tar"), encodes=True, image_name=_name)
