"""What a distillation has left so far, for `dpd report`."""

from dataclasses import dataclass
from pathlib import Path

from dpd_distill.distillation import BEGUN, STORED, begun_by, read_distillation, resume_command
from dpd_runtime.errors import InputError
from dpd_runtime.files import read_object
from dpd_runtime.set_state import DATASET_NAME

RECORDS = {"set": DATASET_NAME, "training run": "run.json"}
"""The file without which the folder of a result is unfinished."""


@dataclass(frozen=True)
class Finished:
    """The results of a distillation that are there, and a line for each of the others."""

    paths: tuple[Path, ...]
    missing: tuple[str, ...] = ()


def is_distillation(path: Path) -> bool:
    return begun_by(path) is not None


def finished_of(folder: Path) -> Finished:
    """Find the results of the distillation in `folder`: a page of them shows what `dpd distill` shows at its end.

    Its bundle lies beside it, as `dpd distill` put it there. Where the two were moved, no other place is looked at: a
    folder that somebody else made could name any.

    Raises:
        InputError: nothing is finished, or the folder is of another version.
    """
    if (folder / STORED).is_file():
        made = read_distillation(folder)
        results, name, unaudited = made.results, made.out.name, made.unaudited
    else:
        results, name, unaudited = dict[str, Path](), _name_of_bundle(folder), None
    own = folder.absolute().with_name(name)
    results |= {"bundle": own if own.exists() or unaudited is None or not unaudited.exists() else unaudited}
    there = {what: path for what, path in results.items() if (path / RECORDS.get(what, "")).exists()}
    missing = [f"{folder}: there is no {what} yet" for what in results if what not in there]
    if unaudited is not None and there.get("bundle") == unaudited:
        missing.append(f"{folder}: its bundle is not audited yet")
    if not there:
        way = resume_command(own, begun_by(folder) or "distill")
        raise InputError(f"{folder}: nothing of this distillation is finished; continue it: {way}")
    return Finished(tuple(there.values()), tuple(missing))


def _name_of_bundle(folder: Path) -> str:
    """The name of the bundle of a distillation that another command began, which leaves that and nothing to judge it.

    Raises:
        InputError: the folder is of another version.
    """
    path, way_out = next(path for name in BEGUN if (path := folder / name).is_file()), "choose another --out"
    out = read_object(path, str(path), way_out).get("out")
    if not isinstance(out, str):
        raise InputError(f"{folder}: was made by another version of dpd (a place that is no text); {way_out}")
    return Path(out).name
