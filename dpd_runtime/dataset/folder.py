"""An output folder between two runs: what is ours, what `--overwrite` may delete."""

import json
import re
from pathlib import Path
from typing import Any

from dpd_runtime.dataset.formats import ENCODINGS, FORMATS, PNG, UNFINISHED_NAME, Output
from dpd_runtime.dataset.shards import LOCK_FILE, WHOLE, Worker
from dpd_runtime.dataset.state import DATASET_NAME, METADATA_NAME, SHARD_STATE, STATE_NAME
from dpd_runtime.errors import OutputFolderError
from dpd_runtime.files import PARTIAL
from dpd_runtime.generation.teacher import SOFT_LABELS_NAME

SHEET_NAME = "contact_sheet.png"
OWN_NAMES = (DATASET_NAME, METADATA_NAME, STATE_NAME, SHEET_NAME, SOFT_LABELS_NAME)


def check_output_folder(out: Path) -> None:
    """Refuse a folder with content that is not a distilled set of ours.

    Raises:
        OutputFolderError
    """
    if out.exists() and not out.is_dir():
        raise OutputFolderError(out, "is a file, not a folder")
    if not out.is_dir() or _is_ours(out):
        return
    early = STATE_NAME + PARTIAL  # that and locks are all that an early kill can leave
    other = any(path.name != early and not LOCK_FILE.fullmatch(path.name) for path in out.iterdir())
    if other and not _is_ours(out):  # asked again: a shard may have begun meanwhile
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
    except FileNotFoundError:
        return _is_ours(out)  # a shard has ended the set meanwhile: what it was and what it is are both ours
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def _is_part(path: Path, out: Path, header: dict[str, Any]) -> bool:
    """Whether a set with this header, finished or not, has such a file or folder."""
    where = path.relative_to(out).as_posix().removesuffix(PARTIAL)
    kind = FORMATS.get(header.get("format", Output.format))
    encoding = ENCODINGS.get(header.get("image_format", PNG.name), PNG)
    if where in OWN_NAMES or LOCK_FILE.fullmatch(where) or SHARD_STATE.fullmatch(where):
        return True
    if kind is not None and kind.files.fullmatch(where):
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
        OutputFolderError: `out` holds no distilled set, or something beside it, or is being written; nothing was
            deleted then.
    """
    check_output_folder(out)
    if not out.is_dir():
        return
    with Worker(out, WHOLE):
        _remove_set(out)


def _remove_set(out: Path) -> None:
    headers = _headers(out)
    ours: list[Path] = []
    foreign: list[Path] = []
    for path in sorted(out.rglob("*"), reverse=True):  # files before their folders
        known = not path.is_symlink() and any(_is_part(path, out, header) for header in headers)
        (ours if known else foreign).append(path)
    if foreign and headers:
        raise OutputFolderError(out, f"holds {foreign[0].relative_to(out)}, which is no part of a distilled set")
    for path in sorted(ours, key=lambda path: path in (out / STATE_NAME, out / DATASET_NAME)):
        if LOCK_FILE.fullmatch(path.name):
            continue  # goes with the process
        if path.is_dir():  # the files that make it ours go last: after a kill the rest can still be removed
            path.rmdir()
        else:
            path.unlink()
