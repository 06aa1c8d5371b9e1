"""The distilled set on disk: an ImageFolder with its metadata, resumable after a kill at any moment (DESIGN §8)."""

import errno
import hashlib
import io
import json
import os
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

from dpd_runtime.contact_sheet import contact_sheet
from dpd_runtime.engines.onnxruntime import usable_cores
from dpd_runtime.errors import DiskError, OutputFolderError
from dpd_runtime.generate import BLOCK, Block, Generation, Image

DATASET_NAME = "dataset.json"
METADATA_NAME = "metadata.jsonl"
STATE_NAME = "state.jsonl"
SHEET_NAME = "contact_sheet.png"
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


def set_hash(images: Iterable[tuple[str, int, Pixels]]) -> str:
    """Hash of pixels before encoding: the same for every file format.

    Args:
        images: (class name, index, uint8 [H, W, 3]) in any order.
    """
    digest = hashlib.sha256()
    for name, index, pixels in sorted(images, key=lambda entry: (entry[0].encode(), entry[1])):
        raw = name.encode()
        digest.update(struct.pack("<I", len(raw)) + raw + struct.pack("<III", index, *pixels.shape[:2]))
        digest.update(np.ascontiguousarray(pixels).tobytes())
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
    }


def _write_atomically(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())
    partial.replace(path)


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


def read_pixels(path: Path) -> Pixels | None:
    """The image's pixels, or None where there is no whole image."""
    try:
        with PillowImage.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, PillowImage.DecompressionBombError):  # whatever Pillow raises on damage
        return None


class _State:
    """Finished images as JSON lines behind one header line; a torn last line counts as not written."""

    def __init__(self, out: Path, header: dict[str, Any], ipc: int) -> None:
        """Raises:
        OutputFolderError: another header, or images beyond `ipc` which the smaller set would leave unlisted.
        """
        self.path = out / STATE_NAME
        self.records: dict[str, dict[str, Any]] = {}
        header = json.loads(json.dumps(header))
        lines = self._read(out)
        if lines:
            if lines[0] != header:
                different = ", ".join(k for k in header if lines[0].get(k) != header[k])
                raise OutputFolderError(out, f"holds a set made with another {different}")
            self.records = {record["file_name"]: record for record in lines[1:]}
        if any(record["index"] >= ipc for record in self.records.values()):
            raise OutputFolderError(out, f"holds more than {ipc} images per class")
        kept = [header, *self.records.values()]
        _write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def _read(self, out: Path) -> list[dict[str, Any]]:
        """Lines of an unfinished run, else those of a finished set which may be made larger."""
        if self.path.exists():
            lines = []
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    lines.append(json.loads(line))
                except ValueError:
                    break
            return lines
        if (out / DATASET_NAME).exists() and (out / METADATA_NAME).exists():
            finished = json.loads((out / DATASET_NAME).read_text(encoding="utf-8"))
            records = (out / METADATA_NAME).read_text(encoding="utf-8").splitlines()
            return [finished.get("made_with", {}), *map(json.loads, records)]
        return []

    def append(self, records: list[dict[str, Any]]) -> None:
        with self.path.open("ab") as handle:
            handle.write("".join(json.dumps(record) + "\n" for record in records).encode())
            handle.flush()
            os.fsync(handle.fileno())
        self.records |= {record["file_name"]: record for record in records}

    def intact(self, out: Path, name: str) -> bool:
        record = self.records.get(name)
        pixels = read_pixels(out / name) if record else None
        if record is None or pixels is None:
            return False
        return bool(hashlib.sha256(pixels.tobytes()).hexdigest() == record["pixels_sha256"])


def check_output_folder(out: Path) -> None:
    """Refuse a folder with content that is not a distilled set of ours.

    Raises:
        OutputFolderError
    """
    if out.exists() and not out.is_dir():
        raise OutputFolderError(out, "is a file, not a folder")
    if not out.is_dir() or _is_ours(out):
        return
    if any(path.name != STATE_NAME + ".partial" for path in out.iterdir()):  # all that an early kill can leave
        raise OutputFolderError(out, "is not empty and holds no distilled set")


def _is_ours(out: Path) -> bool:
    """Others, too, call their files dataset.json and metadata.jsonl: only our header makes a set ours to change."""
    headers: list[Any] = []
    try:
        if (out / STATE_NAME).exists():
            headers.append(json.loads((out / STATE_NAME).read_text(encoding="utf-8").split("\n", 1)[0]))
        if (out / DATASET_NAME).exists():
            headers.append(json.loads((out / DATASET_NAME).read_text(encoding="utf-8"))["made_with"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
    return bool(headers) and all(isinstance(h, dict) and {"bundle", "seed", "sampler"} <= set(h) for h in headers)


def remove_set(out: Path) -> None:
    """Delete a distilled set of ours, and nothing else: files which the set does not list stay.

    Raises:
        OutputFolderError: `out` holds no distilled set.
    """
    check_output_folder(out)
    if not out.is_dir():
        return
    for name in (METADATA_NAME, STATE_NAME):
        path = out / name
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            listed = json.loads(line).get("file_name", "") if line.endswith("}") else ""
            if listed and ".." not in Path(listed).parts and not Path(listed).is_absolute():
                (out / listed).unlink(missing_ok=True)
                if (out / listed).parent.is_dir() and not any((out / listed).parent.iterdir()):
                    (out / listed).parent.rmdir()
    for name in (METADATA_NAME, STATE_NAME, DATASET_NAME, SHEET_NAME):
        (out / name).unlink(missing_ok=True)


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
    try:
        return _write_set(generation, out, progress)
    except OSError as error:
        raise _disk_error(error, out) from error


def _write_set(generation: Generation, out: Path, progress: Callable[[int, int], None]) -> DistilledSet:
    out.mkdir(parents=True, exist_ok=True)
    header = _header(generation)
    state = _State(out, header, generation.ipc)
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
                _write_atomically(out / file_name(image.class_name, image.index), _png(image.pixels))
            state.append([_record(image, generation.seed) for image in images])
            computed += len(images)
        done += len(names)
        progress(done, len(generation))
    return _finish(generation, out, header, state, computed)


def _names(block: Block, ipc: int) -> list[str]:
    return [file_name(block.scene_class.name, i) for i in block.indices if i < ipc]


def _finish(generation: Generation, out: Path, header: dict[str, Any], state: _State, computed: int) -> DistilledSet:
    """Metadata, contact sheet and dataset.json from the files as they are on disk; the state goes last."""
    records, pixels, rows = [], [], []
    for scene in generation.classes:
        row = []
        for index in range(generation.ipc):
            name = file_name(scene.name, index)
            image = read_pixels(out / name)
            if image is None:
                raise OSError(errno.EIO, f"{name} cannot be read back")
            records.append(state.records[name])
            pixels.append((scene.name, index, image))
            if index < BLOCK:
                row.append(image)
        rows.append((scene.name, row))
    digest = set_hash(pixels)
    _write_atomically(out / METADATA_NAME, "".join(json.dumps(r) + "\n" for r in records).encode())
    _write_atomically(out / SHEET_NAME, _png(contact_sheet(rows)))
    manifest = generation.bundle.manifest
    dataset = {
        "set_hash": digest,
        "bundle_hash": generation.bundle.hash,
        "bundle_name": manifest.name,
        "signature": "unsigned",
        "audit": manifest.audit,
        "seed": generation.seed,
        "ipc": generation.ipc,
        "images": len(records),
        "counts": {scene.name: generation.ipc for scene in generation.classes},
        "provider": generation.provider.name,
        "threads": usable_cores(),
        "cpu_flags": cpu_flags(),
        "versions": versions(),
        "made_with": header,
        "state": "complete",
    }
    _write_atomically(out / DATASET_NAME, (json.dumps(dataset, indent=1) + "\n").encode())
    (out / STATE_NAME).unlink()
    return DistilledSet(out, len(records), len(generation.classes), computed, digest)
