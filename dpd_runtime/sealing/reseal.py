"""Changed copies of a bundle: files and manifest fields added or replaced, without a signature."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dpd_runtime.bundle.archive import open_files, write_zip
from dpd_runtime.bundle.bundle import Bundle, load_bundle
from dpd_runtime.bundle.manifest import AUDIT_NAME, MANIFEST_NAME, VERDICTS, FileEntry, Manifest, parse_manifest
from dpd_runtime.bundle.zip_layout import check_entry_name
from dpd_runtime.errors import BundleError, BundleHashError, InputError

_PIECE = 2**24  # bytes


def check_target(out: Path, overwrite: bool) -> None:
    """Check that a bundle may be written to `out`.

    Raises:
        InputError: `out` exists, and --overwrite was not given or it is not a bundle.
    """
    if not out.exists():
        return
    if not overwrite:
        raise InputError(f"--out {out} exists; choose another --out, or pass --overwrite")
    try:
        load_bundle(out, allow_older=True)
    except BundleError as error:
        raise InputError(
            f"{out} is not an intact bundle ({error}) and is not overwritten; choose another --out"
        ) from error


def check_auditable(bundle: Bundle) -> None:
    """Check that a verdict may be written into a copy of the bundle.

    Raises:
        InputError: the bundle claims differential privacy, and figures from its training images would end that.
    """
    if bundle.manifest.privacy is not None:
        raise InputError(
            f"{bundle.path} claims differential privacy, which a verdict from its training images would end; leave out "
            "--out, and keep what the audit prints to yourself"
        )


def write_audited(bundle: Bundle, out: Path, record: Mapping[str, Any], verdict: str) -> str:
    """Write a copy of `bundle` with `record` as audit.json and `verdict` as the manifest's audit.

    Args:
        out: as for `write_changed`.
        verdict: one of VERDICTS, the one in `record`.

    Returns:
        The new bundle's hash.
    """
    if verdict not in VERDICTS:
        raise ValueError(f"verdict is {verdict!r}: it must be one of {', '.join(VERDICTS)}")
    if record.get("verdict") != verdict:
        raise ValueError(f"the record's verdict is {record.get('verdict')!r}, not {verdict}")
    check_auditable(bundle)
    raw = (json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
    return write_changed(bundle, out, {AUDIT_NAME: raw}, audit=verdict)


def write_changed(bundle: Bundle, out: Path, added: Mapping[str, bytes | Path], **changes: Any) -> str:
    """Write a copy of `bundle` with files added or replaced. The copy is a new, unsigned bundle.

    Args:
        out: a .dpd file, or a folder if the name has no .dpd ending. It is replaced at the end and may be the bundle
            itself.
        added: content by path in the bundle. If `out` is a folder, a Path is moved, so that large engines are not
            copied.
        changes: new values of manifest fields other than `files`.

    Returns:
        The new bundle's hash.

    Raises:
        InputError: the bundle is encrypted, and its copy would not be; or `out` is something else than a bundle.
        BundleHashError: the bundle was changed after it was opened, or the disk returns other bytes.
        OSError: from the disk. After any error `out` is unchanged.
    """
    if bundle.key is not None:
        raise InputError(f"{bundle.path} is encrypted, but its changed copy would not be; run dpd decrypt first")
    for name in added:
        check_entry_name(name)
    entries = dict(bundle.manifest.files) | {name: file_entry(content) for name, content in added.items()}
    manifest = replace(bundle.manifest, **changes, files=dict(sorted(entries.items())))
    raw = manifest.to_json()
    parse_manifest(raw)  # never write a bundle that cannot be opened
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        partial = scratch / "new"
        files = open_files(bundle.path)
        kept = {name: files.source(name) for name in bundle.manifest.files if name not in added}
        if out.suffix == ".dpd":
            write_zip(partial, {**kept, **added, MANIFEST_NAME: raw})
        else:
            _write_folder(partial, {**kept, MANIFEST_NAME: raw}, added)
        _check_written(partial, manifest)
        _take_place(partial, out, scratch / "old")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return hashlib.sha256(raw).hexdigest()


def file_entry(content: bytes | Path) -> FileEntry:
    """Hash and size of a content or of a file."""
    if isinstance(content, bytes):
        return FileEntry(hashlib.sha256(content).hexdigest(), len(content))
    with content.open("rb") as file:
        return FileEntry(hashlib.file_digest(file, "sha256").hexdigest(), content.stat().st_size)


def _write_folder(
    folder: Path, copied: Mapping[str, bytes | memoryview | Path], added: Mapping[str, bytes | Path]
) -> None:
    for name in (*copied, *added):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    for name, source in copied.items():
        if isinstance(source, Path):
            shutil.copyfile(source, folder / name)
        else:
            (folder / name).write_bytes(source)
    for name, moved in added.items():
        if isinstance(moved, Path):
            shutil.move(moved, folder / name)
        else:
            (folder / name).write_bytes(moved)


def _take_place(finished: Path, out: Path, aside: Path) -> None:
    """Move the finished bundle to `out`. An old folder is moved aside first, and moved back after an error.

    Raises:
        InputError: `out` is something else than a bundle.
    """
    check_target(out, overwrite=True)  # whatever a caller has checked or stored: nothing but a bundle is replaced
    if out.is_dir():
        out.replace(aside)
    try:
        finished.replace(out)
    except BaseException:  # an interrupt too: the caller deletes what lies aside
        if aside.exists():
            aside.replace(out)
        raise


def _check_written(path: Path, manifest: Manifest) -> None:
    """Read everything back and compare it with the manifest's hashes."""
    written = open_files(path)
    for name, entry in manifest.files.items():
        digest = hashlib.sha256()
        for piece in written.pieces(name):
            digest.update(piece)
        if digest.hexdigest() != entry.sha256:
            raise BundleHashError(name, digest.hexdigest(), entry.sha256)
