"""An output folder between two runs: what is finished, what is ours, what `--overwrite` may delete."""

import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from dpd_runtime.atomic import PARTIAL, write_atomically
from dpd_runtime.errors import OutputFolderError
from dpd_runtime.formats import ENCODINGS, FORMATS, PNG, UNFINISHED_NAME, Output
from dpd_runtime.soft_labels import SOFT_LABELS_NAME

DATASET_NAME = "dataset.json"
METADATA_NAME = "metadata.jsonl"
STATE_NAME = "state.jsonl"
SHEET_NAME = "contact_sheet.png"
OWN_NAMES = (DATASET_NAME, METADATA_NAME, STATE_NAME, SHEET_NAME, SOFT_LABELS_NAME)
Pixels = npt.NDArray[np.uint8]


def read_pixels(path: Path) -> Pixels | None:
    """The image's pixels, or None where there is no whole image."""
    try:
        with warnings.catch_warnings(action="ignore"), PillowImage.open(path) as image:  # the reader of TIFF talks
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, PillowImage.DecompressionBombError):  # whatever Pillow raises on damage
        return None


def other_settings(out: Path, found: dict[str, Any], wanted: dict[str, Any]) -> OutputFolderError:
    different = ", ".join(key for key in {**wanted, **found} if found.get(key) != wanted.get(key))
    return OutputFolderError(out, f"holds a set made with another {different}", removable=True)


def _records(lines: list[str]) -> Iterator[dict[str, Any]]:
    """Images up to the first line which is torn or damaged."""
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            return
        if not isinstance(record, dict) or type(record.get("index")) is not int or "file_name" not in record:
            return
        yield record


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
                raise other_settings(out, lines[0], header)
            self.records = {record["file_name"]: record for record in lines[1:]}
        if any(record["index"] >= ipc for record in self.records.values()):
            raise OutputFolderError(out, f"holds more than {ipc} images per class", removable=True)
        kept = [header, *self.records.values()]
        write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def _read(self, out: Path) -> list[dict[str, Any]]:
        """Lines of an unfinished run, else those of a finished set which may be made larger."""
        if self.path.exists():
            header, *lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
            return [json.loads(header), *_records(lines)]
        if not (out / DATASET_NAME).exists():
            return []
        finished = json.loads((out / DATASET_NAME).read_text(encoding="utf-8"))
        lines = []
        if (out / METADATA_NAME).exists():
            lines = (out / METADATA_NAME).read_text(encoding="utf-8", errors="replace").splitlines()
        return [finished.get("made_with", {}), *_records(lines)]

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
        return bool(hashlib.sha256(pixels.tobytes()).hexdigest() == record.get("pixels_sha256"))


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


def _is_part(path: Path, out: Path, header: dict[str, Any]) -> bool:
    """Whether a set with this header, finished or not, has such a file or folder."""
    where = path.relative_to(out).as_posix().removesuffix(PARTIAL)
    kind = FORMATS.get(header.get("format", Output.format))
    encoding = ENCODINGS.get(header.get("image_format", PNG.name), PNG)
    if where in OWN_NAMES or (kind is not None and kind.files.fullmatch(where)):
        return True
    if where == UNFINISHED_NAME:
        return path.is_dir()
    waiting = where.startswith(UNFINISHED_NAME + "/")
    folder, _, name = where.removeprefix(UNFINISHED_NAME + "/").rpartition("/")
    classes = {str(known) for known in header.get("classes", [])} - {"", ".", ".."}
    if not waiting and kind is not FORMATS[Output.format]:
        return False
    if not folder:
        return name in classes and path.is_dir()
    suffix = re.escape(PNG.suffix if waiting else encoding.suffix)
    return folder in classes and re.fullmatch(rf"{re.escape(folder)}_\d{{5,}}{suffix}", name) is not None


def remove_set(out: Path) -> None:
    """Delete a distilled set of ours, finished or not. Decided before anything is touched.

    Raises:
        OutputFolderError: `out` holds no distilled set, or something beside it; nothing was deleted then.
    """
    check_output_folder(out)
    if not out.is_dir():
        return
    headers = _headers(out)
    ours: list[Path] = []
    foreign: list[Path] = []
    for path in sorted(out.rglob("*"), reverse=True):  # files before their folders
        known = not path.is_symlink() and any(_is_part(path, out, header) for header in headers)
        (ours if known else foreign).append(path)
    if foreign:
        raise OutputFolderError(out, f"holds {foreign[0].relative_to(out)}, which is no part of a distilled set")
    for path in sorted(ours, key=lambda path: path in (out / STATE_NAME, out / DATASET_NAME)):
        if path.is_dir():  # the files that make it ours go last: after a kill the rest can still be removed
            path.rmdir()
        else:
            path.unlink()
