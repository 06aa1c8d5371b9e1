"""A folder of files → a bundle: hashes for the manifest, one .dpd file or a folder, whole or not at all."""

import shutil
from pathlib import Path

from dpd_runtime.bundle.archive import write_zip
from dpd_runtime.bundle.manifest import MANIFEST_NAME, FileEntry, Manifest
from dpd_runtime.sealing.reseal import file_entry


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def entries(folder: Path) -> dict[str, FileEntry]:
    """Every file under `folder` but the manifest, by its path."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != MANIFEST_NAME:
            found[name] = file_entry(path)
    return dict(sorted(found.items()))


def write_manifest(folder: Path, manifest: Manifest) -> bytes:
    raw = manifest.to_json()
    (folder / MANIFEST_NAME).write_bytes(raw)
    return raw


def place(folder: Path, out: Path) -> None:
    """Put the finished folder, or one file made from it, at `out`. `folder` lies on the same disk."""
    finished = folder
    if out.suffix == ".dpd":
        finished = folder.with_name(out.name + ".zip")
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        write_zip(finished, {name: folder / name for name in names})
    if out.is_dir():
        shutil.rmtree(out)
    finished.replace(out)
