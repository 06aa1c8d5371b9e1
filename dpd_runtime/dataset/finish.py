"""The last step of writing a set: pack all images, and write metadata, soft labels and contact sheet."""

import errno
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpd_runtime.annotations import Float32, Pixels
from dpd_runtime.dataset.digest import SetDigest
from dpd_runtime.dataset.folder import file_hash
from dpd_runtime.dataset.formats import PNG, Contents, Output, Sample, folder_name
from dpd_runtime.dataset.sheet import MOST_ROWS, contact_sheet, tile
from dpd_runtime.dataset.state import METADATA_NAME, State
from dpd_runtime.files import write_atomically
from dpd_runtime.generation.generate import Generation
from dpd_runtime.generation.teacher import SOFT_LABELS_NAME, pack_labels
from dpd_runtime.images.bands import Band, picture
from dpd_runtime.images.folders import SHEET_NAME
from dpd_runtime.images.pictures import read_pixels
from dpd_runtime.sampling.sampler import BLOCK

Label = Callable[[Pixels], Float32]


@dataclass(frozen=True)
class Completed:
    """The result of `complete`. files: sha256 by name of the files of a packed set; empty for an image folder."""

    set_hash: str
    images: int
    files: dict[str, str]


def complete(generation: Generation, out: Path, output: Output, state: State, label: Label | None) -> Completed:
    """Read all images back from the disk, pack them, and write metadata, soft labels and contact sheet.

    Only metadata and soft labels are held in memory for all images.

    Raises:
        OSError: an image cannot be read back.
    """
    classes = tuple(scene.name for scene in generation.bundle.classes)
    height, width, _ = generation.bundle.manifest.image_shape
    contents = Contents(len(generation), classes, (height, width), output.encoding, label is not None, output.bands)
    gathered = _Gathered(output.bands)
    samples = gathered.watch(_samples(generation, out, output, state, label))
    if output.direct:
        packed: list[str] = []
        for _ in samples:
            pass
    else:
        packed = output.kind.pack(samples, out, contents)
    written = [*packed, METADATA_NAME, SHEET_NAME]
    if not output.direct and not packed:
        for record in gathered.records:
            record["file_sha256"] = file_hash(out / record["file_name"])
    write_atomically(
        out / METADATA_NAME, "".join(json.dumps(r, allow_nan=False) + "\n" for r in gathered.records).encode()
    )
    write_atomically(out / SHEET_NAME, PNG.encode(contact_sheet(list(gathered.rows.items()))))
    if label is not None:
        write_atomically(out / SOFT_LABELS_NAME, pack_labels(gathered.soft_labels, classes))
        written.append(SOFT_LABELS_NAME)
    files = {} if output.direct else {name: file_hash(out / name) or "" for name in written}
    return Completed(gathered.digest.hexdigest(), len(gathered.records), files)


class _Gathered:
    """Collects hash, metadata, soft labels and the rows of the contact sheet while the samples are packed.

    Args:
        rows: the tiles of each class that the sheet shows: ten thousand classes of large images would fill the memory.
    """

    def __init__(self, bands: tuple[Band, ...]) -> None:
        self.bands = bands
        self.digest = SetDigest()
        self.records: list[dict[str, Any]] = []
        self.rows: dict[str, list[Pixels]] = {}
        self.soft_labels: list[Float32] = []

    def watch(self, samples: Iterator[Sample]) -> Iterator[Sample]:
        for sample in samples:
            name, index = sample.record["class"], sample.record["index"]
            self.digest.update(name, index, sample.pixels)
            self.records.append(sample.record)
            if len(self.rows) < MOST_ROWS or name in self.rows:
                row = self.rows.setdefault(name, [])
                if index < BLOCK:
                    row.append(tile(picture(sample.pixels, self.bands)))
            if sample.soft_label is not None:
                self.soft_labels.append(sample.soft_label)
            yield sample


def _samples(generation: Generation, out: Path, output: Output, state: State, label: Label | None) -> Iterator[Sample]:
    """All images in the order of the set hash."""
    for scene in sorted(generation.classes, key=lambda scene: scene.name.encode()):
        for index in range(generation.ipc):
            name = folder_name(scene.name, scene.label, index, output.block_encoding.suffix)
            pixels = read_pixels(output.block_folder(out) / name)
            if pixels is None:
                raise OSError(errno.EIO, f"{name} cannot be read back")
            final = output.kind.image_name(scene.name, scene.label, index, output.encoding.suffix)
            record = {**state.records[name], "file_name": final}
            yield Sample(record, pixels, None if label is None else label(pixels))
