"""Write a bundle's files and manifest, and put the finished bundle in its place, complete or not at all."""

from pathlib import Path

from dpd_runtime.archive import write_zip
from dpd_runtime.manifest import MANIFEST_NAME, FileEntry, Manifest
from dpd_runtime.sealing import file_entry, take_place


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Write each file under `folder`, by its path."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def entries(folder: Path) -> dict[str, FileEntry]:
    """The manifest's entry of every file under `folder` except the manifest, by its path."""
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != MANIFEST_NAME:
            files[name] = file_entry(path)
    return dict(sorted(files.items()))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write bundle.json."""
    (folder / MANIFEST_NAME).write_bytes(manifest.to_json())


def place(folder: Path, out: Path) -> None:
    """Move the finished folder to `out`, or pack it into one file there if `out` ends in .dpd.

    Args:
        folder: on the same disk as `out`.

    Raises:
        InputError: there is something else than a bundle at `out`.
    """
    finished = folder
    if out.suffix == ".dpd":
        finished = folder.with_name(out.name + ".zip")
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        write_zip(finished, {name: folder / name for name in names})
    take_place(finished, out, folder.with_name(out.name + ".old"))
