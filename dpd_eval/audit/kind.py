"""What an audit checks before PyTorch is imported: what kind of thing is audited, its classes, and the data."""

from pathlib import Path
from typing import Literal

from dpd_eval.audit.data import check_numbers, check_sources
from dpd_eval.extractors.choice import check_name
from dpd_runtime.bundle.archive import FolderFiles, ZipFiles, open_files
from dpd_runtime.bundle.classes import read_class_table, read_code_table
from dpd_runtime.bundle.manifest import MANIFEST_NAME, parse_manifest
from dpd_runtime.dataset.state import DATASET_NAME
from dpd_runtime.errors import BundleError, InputError
from dpd_train.held_out import HeldOut
from dpd_train.images import check_files
from dpd_train.run.finished import read_run

CODE_TABLE = ("classes.json", "prototypes.safetensors")
CLASS_TABLE = (*CODE_TABLE, "prompts.safetensors")
Kind = Literal["bundle", "run", "set"]


def kind_of(path: Path) -> Kind:
    """Tell what `path` is. Any folder that is neither a bundle nor a run is a set, whoever made its images.

    Raises:
        InputError: nothing at all, or a file that is no bundle.
    """
    if (path / DATASET_NAME).is_file():
        return "set"
    if (path / "run.json").is_file():
        return "run"
    if not path.exists():
        raise InputError(f"{path}: no such bundle, run or set; give a .dpd file, a run or a folder of labelled images")
    return "bundle" if path.is_file() or (path / MANIFEST_NAME).is_file() else "set"


def check_run(kind: Kind, run: Path | None) -> None:
    """Check `--run` for what is audited.

    Raises:
        InputError: `run` has no effect, or is not a run.
    """
    if run is None:
        return
    if kind == "set":
        raise InputError(f"--run {run} has no effect on a set: it has no networks")
    if kind == "run":
        raise InputError(f"--run {run} has no effect: a run is audited with its own encoder")
    if not (run / "pipeline").is_dir():
        raise InputError(f"--run {run}: no pipeline/ in it; give the run directory from which the bundle was exported")


def check_inputs(
    path: Path,
    train: Path,
    holdout: Path | None,
    *,
    run: Path | None,
    held_out: HeldOut,
    images: int | None,
    seed: int | None,
) -> None:
    """Check all that needs no network and no pixel, in less than a second.

    Raises:
        InputError, DataError, BundleError: as `dpd_eval.audit.audit.audit`.
    """
    check_numbers(images, seed)
    kind = kind_of(path)
    for option, value in (("--images", images), ("--seed", seed)):
        if kind == "set" and value is not None:
            raise InputError(f"{option} {value} has no effect on a set: all its images are tested")
    check_run(kind, run)
    check_sources(train, holdout, _classes(path), held_out)


def check_further(extractor: str | None) -> None:
    """Check the name of a further extractor.

    Raises:
        InputError: an unknown one, or own, which the audit always has.
    """
    if extractor == "own":
        raise InputError("--extractor own has no effect: the audit always has it; name another one")
    if extractor is not None:
        check_name(extractor)


def _classes(path: Path) -> tuple[str, ...]:
    """The class names of what is audited; of a bundle before its hashes are checked."""
    kind = kind_of(path)
    if kind == "set":
        return tuple(check_files(path, "all"))
    if kind == "run":
        return tuple(str(entry["name"]) for entry in read_run(path).table["classes"])
    files = open_files(path)
    _check_there(path, files, (MANIFEST_NAME,))
    manifest = parse_manifest(bytes(files[MANIFEST_NAME]))
    read, names = (read_code_table, CODE_TABLE) if manifest.codes_only else (read_class_table, CLASS_TABLE)
    _check_there(path, files, names)
    table = read({name: bytes(files[name]) for name in names}, manifest.latent_shape)
    return tuple(c.name for c in table.classes)


def _check_there(path: Path, files: FolderFiles | ZipFiles, names: tuple[str, ...]) -> None:
    if missing := [name for name in names if name not in files]:
        raise BundleError(f"{path}: has no {missing[0]}; give a bundle that dpd export wrote")
