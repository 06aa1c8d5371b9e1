"""An output folder between two runs: what is finished, what is ours, what `--overwrite` may delete."""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from dpd_runtime.atomic import write_atomically
from dpd_runtime.errors import OutputFolderError

DATASET_NAME = "dataset.json"
METADATA_NAME = "metadata.jsonl"
STATE_NAME = "state.jsonl"
SHEET_NAME = "contact_sheet.png"
OWN_NAMES = (DATASET_NAME, METADATA_NAME, STATE_NAME, SHEET_NAME)
_IMAGE = re.compile(r"_\d{5,}\.png")
Pixels = npt.NDArray[np.uint8]


def read_pixels(path: Path) -> Pixels | None:
    """The image's pixels, or None where there is no whole image."""
    try:
        with PillowImage.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, PillowImage.DecompressionBombError):  # whatever Pillow raises on damage
        return None


class State:
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
                raise OutputFolderError(out, f"holds a set made with another {different}", removable=True)
            self.records = {record["file_name"]: record for record in lines[1:]}
        if any(record["index"] >= ipc for record in self.records.values()):
            raise OutputFolderError(out, f"holds more than {ipc} images per class", removable=True)
        kept = [header, *self.records.values()]
        write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())

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


def _headers(out: Path) -> list[dict[str, Any]]:
    """The headers of our state and dataset files; a file of that name without one is somebody else's.

    Raises:
        ValueError, KeyError, TypeError, RecursionError: not ours.
    """
    headers = []
    if (out / STATE_NAME).exists():
        headers.append(json.loads((out / STATE_NAME).read_text(encoding="utf-8").split("\n", 1)[0]))
    if (out / DATASET_NAME).exists():
        headers.append(json.loads((out / DATASET_NAME).read_text(encoding="utf-8"))["made_with"])
    for header in headers:
        if not {"bundle", "seed", "sampler", "classes"} <= set(header):
            raise KeyError("header")
    return headers


def _is_ours(out: Path) -> bool:
    """Others, too, call their files dataset.json and metadata.jsonl: only our header makes a set ours to change."""
    try:
        return bool(_headers(out))
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def remove_set(out: Path) -> None:
    """Delete a distilled set of ours, finished or not. Decided before anything is touched.

    Raises:
        OutputFolderError: `out` holds no distilled set, or something beside it; nothing was deleted then.
    """
    check_output_folder(out)
    if not out.is_dir():
        return
    classes = {str(name) for header in _headers(out) for name in header.get("classes", [])}
    classes = {name for name in classes if name not in ("", ".", "..") and "/" not in name}
    ours: list[Path] = []
    foreign: list[Path] = []
    for path in sorted(out.rglob("*"), reverse=True):  # files before their folders
        where = path.relative_to(out).as_posix().removesuffix(".partial")
        folder, _, name = where.rpartition("/")
        image = folder in classes and name.startswith(f"{folder}_") and _IMAGE.fullmatch(name.removeprefix(folder))
        known = (where in classes and path.is_dir()) or where in OWN_NAMES or image
        (ours if known and not path.is_symlink() else foreign).append(path)
    if foreign:
        raise OutputFolderError(out, f"holds {foreign[0].relative_to(out)}, which is no part of a distilled set")
    for path in ours:
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
