"""The distilled set on disk: an ImageFolder with its metadata, resumable after a kill at any moment (DESIGN §8)."""

import errno
import hashlib
import io
import json
import platform
import struct
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from dpd_runtime.atomic import write_atomically
from dpd_runtime.contact_sheet import contact_sheet
from dpd_runtime.errors import DiskError
from dpd_runtime.generate import BLOCK, Block, Generation, Image
from dpd_runtime.resume import (
    DATASET_NAME,
    METADATA_NAME,
    SHEET_NAME,
    STATE_NAME,
    State,
    check_output_folder,
    read_pixels,
)

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class DistilledSet:
    """What `write_set` leaves."""

    out: Path
    images: int
    classes: int
    computed: int
    set_hash: str


def file_name(class_name: str, index: int) -> str:
    return f"{class_name}/{class_name}_{index:05d}.png"


class _SetDigest:
    """sha256 over images in the order (class utf-8, index); pixels before encoding, whatever the file format."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def update(self, name: str, index: int, pixels: Pixels) -> None:
        raw = name.encode()
        self._digest.update(struct.pack("<I", len(raw)) + raw + struct.pack("<III", index, *pixels.shape[:2]))
        self._digest.update(np.ascontiguousarray(pixels).tobytes())

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def set_hash(images: Iterable[tuple[str, int, Pixels]]) -> str:
    """The set hash (DESIGN §8) of (class name, index, uint8 [H, W, 3]) in any order."""
    digest = _SetDigest()
    for entry in sorted(images, key=lambda entry: (entry[0].encode(), entry[1])):
        digest.update(*entry)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("dpd-distill", "numpy", "pillow", "onnxruntime", "onnxruntime-gpu"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def cpu_flags() -> list[str]:
    """The vector extensions which choose kernels, and so last bits."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return []
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return sorted(f for f in flags.split() if f.startswith(("avx", "amx", "fma")))


def _header(generation: Generation) -> dict[str, Any]:
    """What must be equal for two runs to write into the same folder."""
    return {
        "bundle": generation.bundle.hash,
        "seed": generation.seed,
        "sampler": asdict(generation.sampler),
        "provider": generation.provider.name,
        "classes": [c.name for c in generation.classes],
        "machine": {"versions": versions(), "cpu_flags": cpu_flags()},  # other ones may differ in the last bits
    }


def _png(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    PillowImage.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _record(image: Image, seed: int) -> dict[str, Any]:
    return {
        "file_name": file_name(image.class_name, image.index),
        "label": image.label,
        "class": image.class_name,
        "index": image.index,
        "prototype": image.prototype,
        "prompt": image.prompt,
        "candidate": image.candidate,
        "margin": round(image.margin, 4),
        "seed": seed,
        "pixels_sha256": hashlib.sha256(image.pixels.tobytes()).hexdigest(),
    }


def _disk_error(error: OSError, out: Path) -> DiskError:
    reason = {errno.ENOSPC: "the disk is full", errno.EROFS: "the disk is read-only"}.get(
        error.errno or 0, error.strerror or str(error)
    )
    return DiskError(f"{out}: {reason}; finished images are kept, run the same command again to go on")


def write_set(
    generation: Generation,
    out: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> DistilledSet:
    """Write every missing image of `generation` under `out`, then the metadata. A second call does only what is left.

    Raises:
        OutputFolderError: `out` holds something else, or a set made with other settings.
        DiskError: the disk is full, read-only or gone; what was finished stays.
    """
    check_output_folder(out)
    generation.load()  # what cannot run is said before anything is written
    try:
        return _write_set(generation, out, progress)
    except OSError as error:
        raise _disk_error(error, out) from error


def _write_set(generation: Generation, out: Path, progress: Callable[[int, int], None]) -> DistilledSet:
    out.mkdir(parents=True, exist_ok=True)
    header = _header(generation)
    state = State(out, header, generation.ipc)
    for name in (DATASET_NAME, METADATA_NAME):  # from here on the set is unfinished
        (out / name).unlink(missing_ok=True)
    for scene in generation.classes:
        (out / scene.name).mkdir(exist_ok=True)
    done, computed = 0, 0
    for block in generation.blocks():
        names = _names(block, generation.ipc)
        if not all(state.intact(out, name) for name in names):
            images = generation.compute(block)
            for image in images:
                write_atomically(out / file_name(image.class_name, image.index), _png(image.pixels))
            state.append([_record(image, generation.seed) for image in images])
            computed += len(images)
        done += len(names)
        progress(done, len(generation))
    return _finish(generation, out, header, state, computed)


def _names(block: Block, ipc: int) -> list[str]:
    return [file_name(block.scene_class.name, i) for i in block.indices if i < ipc]


def _finish(generation: Generation, out: Path, header: dict[str, Any], state: State, computed: int) -> DistilledSet:
    """Metadata, contact sheet and dataset.json from the files as they are on disk; the state goes last."""
    records, rows = [], []
    digest = _SetDigest()
    for scene in sorted(generation.classes, key=lambda scene: scene.name.encode()):
        row = []
        for index in range(generation.ipc):
            name = file_name(scene.name, index)
            pixels = read_pixels(out / name)
            if pixels is None:
                raise OSError(errno.EIO, f"{name} cannot be read back")
            records.append(state.records[name])
            digest.update(scene.name, index, pixels)
            if index < BLOCK:
                row.append(pixels)
        rows.append((scene.name, row))
    write_atomically(out / METADATA_NAME, "".join(json.dumps(r) + "\n" for r in records).encode())
    write_atomically(out / SHEET_NAME, _png(contact_sheet(rows)))
    manifest = generation.bundle.manifest
    dataset = {
        "set_hash": digest.hexdigest(),
        "bundle_hash": generation.bundle.hash,
        "bundle_name": manifest.name,
        "signature": "unsigned",
        "audit": manifest.audit,
        "seed": generation.seed,
        "ipc": generation.ipc,
        "images": len(records),
        "counts": {scene.name: generation.ipc for scene in generation.classes},
        "provider": generation.provider.name,
        "threads": generation.threads,
        "cpu_flags": cpu_flags(),
        "versions": versions(),
        "made_with": header,
        "state": "complete",
    }
    write_atomically(out / DATASET_NAME, (json.dumps(dataset, indent=1) + "\n").encode())
    (out / STATE_NAME).unlink()
    return DistilledSet(out, len(records), len(generation.classes), computed, digest.hexdigest())
