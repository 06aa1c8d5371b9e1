"""The output folder: which files belong to a set, whether the set is finished, and what `--overwrite` deletes."""

import errno
import hashlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dpd_runtime.dataset.card import CARD_NAME, CLASSES_NAME
from dpd_runtime.dataset.croissant import CROISSANT_NAME
from dpd_runtime.dataset.formats import FORMATS, PNG, UNFINISHED_NAME, Output, file_suffix, waiting_encoding
from dpd_runtime.dataset.shards import LOCK_FILE, WHOLE, Worker
from dpd_runtime.dataset.state import DATASET_NAME, METADATA_NAME, SHARD_STATE, STATE_NAME, other_settings
from dpd_runtime.errors import DiskError, DpdError, OutputFolderError
from dpd_runtime.files import (
    FULL,
    check_above,
    check_no_links,
    check_plain,
    disk_fault,
    final_name,
    is_foreign,
    is_safe_name,
    open_regular,
)
from dpd_runtime.generation.teacher import SOFT_LABELS_NAME
from dpd_runtime.images.folders import OF_SETS
from dpd_runtime.strict_json import MAX_JSON_BYTES, loads, parse_json

NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
OWN_NAMES = (
    *(DATASET_NAME, METADATA_NAME, STATE_NAME, SOFT_LABELS_NAME),
    *(CARD_NAME, CLASSES_NAME, CROISSANT_NAME),
    *sorted(OF_SETS),
)


@contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """Turn an OSError of writing to `out` into a DiskError that says what to do."""
    try:
        yield
    except Exception as error:
        fault = disk_fault(error) or (error if isinstance(error, OSError) and not isinstance(error, DpdError) else None)
        if fault is None:
            raise
        raise _disk_error(fault, out) from error


def _disk_error(error: OSError, out: Path) -> DiskError:
    reason = error.strerror or str(error)
    if error.errno in NOT_WRITABLE:
        folder = next((folder for folder in (out, *out.parents) if folder.exists()), out)
        return DiskError(
            f"{folder}: this folder cannot be written ({reason}); choose another --out, or make the folder writable "
            "and run the same command again"
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason = FULL
    return DiskError(f"{out}: {reason}; finished images are kept; run the same command again to continue")


def check_output_folder(out: Path) -> None:
    """Check that a folder is missing, empty, or a distilled set of ours.

    Raises:
        InputError: what should be a folder above `out` is a file.
        OutputFolderError: it is not.
        OutputLinkError: there is a link or a special file in it.
    """
    check_above(out)
    if out.exists() and not out.is_dir():
        raise OutputFolderError(out, "is a file, not a folder")
    if not out.is_dir():
        return
    for status, planted in ((out.stat(), any(out.iterdir())), (out.lstat(), out.is_symlink())):
        if planted and is_foreign(status):
            uid = status.st_uid
            raise OutputFolderError(out, f"belongs to another user (uid {uid}), who may have put images there")
    other = not _is_ours(out) and any(not _is_early(path.name) for path in out.iterdir())
    if other and not _is_ours(out):  # checked again: a shard may have started in between
        raise OutputFolderError(out, "is not empty and is not a distilled set")
    check_no_links(out)


def _is_early(name: str) -> bool:
    """Whether a process that is killed early can leave this file."""
    return LOCK_FILE.fullmatch(name) is not None or (name != STATE_NAME and final_name(name) == STATE_NAME)


def _headers(out: Path) -> list[dict[str, Any]]:
    """The headers of the state file and of dataset.json. Errors of any type mean files that are not ours."""
    headers = []
    for name in (STATE_NAME, DATASET_NAME):
        check_plain(out / name)
    if (out / STATE_NAME).exists():
        headers.append(loads((out / STATE_NAME).read_text(encoding="utf-8").split("\n", 1)[0]))
    if (out / DATASET_NAME).exists():
        headers.append(loads((out / DATASET_NAME).read_text(encoding="utf-8"))["made_with"])
    for header in headers:
        if not {"bundle", "seed", "sampler", "classes"} <= set(header):
            raise KeyError("header")
    return headers


def _is_ours(out: Path) -> bool:
    """Whether the folder is a set of ours. Only our header shows it: other tools use the same file names."""
    try:
        return bool(_headers(out))
    except FileNotFoundError:
        return _is_ours(out)  # a shard has just finished the set
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def _is_part(path: Path, out: Path, header: dict[str, Any]) -> bool:
    """Whether a set with this header, finished or not, can have this file or folder."""
    where = final_name(path.relative_to(out).as_posix())
    kind = FORMATS.get(header.get("format", Output.format))
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
    final = file_suffix(header.get("image_format", PNG.name))
    suffix = waiting_encoding(bool(header.get("bands"))).suffix if waiting else final
    return folder in classes and re.fullmatch(rf"{re.escape(folder)}_\d{{5,}}{re.escape(suffix)}", name) is not None


def remove_set(out: Path) -> None:
    """Delete a distilled set of ours, finished or not.

    Raises:
        OutputFolderError: `out` is not a distilled set, or holds other files, or is being written. Nothing is deleted
            then.
        DiskError: the folder cannot be written.
    """
    with disk_errors(out):
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
        raise OutputFolderError(out, f"holds {foreign[0].relative_to(out)}, which is not part of a distilled set")
    for path in sorted(ours, key=lambda path: path in (out / STATE_NAME, out / DATASET_NAME)):
        if LOCK_FILE.fullmatch(path.name):
            continue  # removed when the process ends
        if path.is_dir():  # the files that mark it as ours go last, so that an interrupted removal can be repeated
            path.rmdir()
        else:
            path.unlink()


def remove_partials(out: Path, header: dict[str, Any]) -> None:
    """Remove the partial files of killed processes. No other process may be at work."""
    for path in list(out.rglob("*")):
        if final_name(path.name) != path.name and _is_part(path, out, header):
            path.unlink()


def begin_again(out: Path, output: Output) -> None:
    """Mark the set as unfinished: delete the files that were made from all images."""
    for name in (DATASET_NAME, METADATA_NAME, SOFT_LABELS_NAME, CARD_NAME, CROISSANT_NAME):
        (out / name).unlink(missing_ok=True)
    for path in out.iterdir():
        if output.kind.files.fullmatch(final_name(path.name)):
            path.unlink()


def file_hash(path: Path) -> str | None:
    """sha256 of a file, or None if there is no file."""
    try:
        with open_regular(path) as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


def _are_whole(out: Path, hashes: dict[str, str]) -> bool:
    """Whether all files are there as recorded. A record from elsewhere may name files outside, which are not opened."""
    inside = all(is_safe_name(part) for name in hashes for part in name.split("/"))
    return inside and all(file_hash(out / name) == digest for name, digest in hashes.items())


def finished_set(out: Path, header: dict[str, Any], ipc: int, output: Output) -> dict[str, Any] | None:
    """dataset.json of a complete and unchanged packed set; else None.

    Raises:
        OutputFolderError: it was made with other settings, or the request would need its pixels, which are not kept.
    """
    if (out / STATE_NAME).exists() or not (out / DATASET_NAME).exists():
        return None
    dataset: dict[str, Any] = loads((out / DATASET_NAME).read_text(encoding="utf-8"))
    if dataset["made_with"] != header:
        raise other_settings(out, dataset["made_with"], header)
    for value, wanted, what in (
        (dataset.get("ipc"), ipc, f"{dataset.get('ipc')} images per class"),
        (dataset.get("soft_labels"), output.soft_labels, f"{'' if dataset.get('soft_labels') else 'no '}soft labels"),
    ):
        if value != wanted:
            reason = (
                f"holds a complete {output.form} set with {what}, which cannot change because its pixels are not kept"
            )
            raise OutputFolderError(out, reason, removable=True)
    files = dict(dataset.get("files", {}))
    if METADATA_NAME not in files or not _are_whole(out, files):
        return None
    records = map(loads, (out / METADATA_NAME).read_text(encoding="utf-8").splitlines())
    images = {r["file_name"]: r["file_sha256"] for r in records if "file_sha256" in r}
    if not _are_whole(out, images):
        return None
    remove_unfinished(out)  # left behind if the process was killed at the very end
    return dataset


def packed_format(folder: Path) -> str | None:
    """The format of a packed distilled set; None for any other folder."""
    try:
        with open_regular(folder / DATASET_NAME) as file:
            name = parse_json(file.read(MAX_JSON_BYTES + 1), DATASET_NAME).get("format", Output.format)
    except (OSError, ValueError, AttributeError):
        return None
    return None if name == Output.format else str(name)


def remove_unfinished(out: Path) -> None:
    """Remove the folder of the images that were waiting to be packed."""
    if (out / UNFINISHED_NAME).exists():
        shutil.rmtree(out / UNFINISHED_NAME)
