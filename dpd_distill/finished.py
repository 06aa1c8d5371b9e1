"""What a distillation has left so far, for `dpd report`."""

from dataclasses import dataclass
from pathlib import Path

from dpd_distill.distillation import STORED, STORED_PRIVATE, read_distillation, resume_command
from dpd_private.distillation import read_request
from dpd_runtime.errors import InputError
from dpd_runtime.set_state import DATASET_NAME

RECORDS = {"set": DATASET_NAME, "training run": "run.json"}
"""The file without which the folder of a result is unfinished."""


@dataclass(frozen=True)
class Finished:
    """The results of a distillation that are there, and a line for each of the others."""

    paths: tuple[Path, ...]
    missing: tuple[str, ...] = ()


def is_distillation(path: Path) -> bool:
    return any((path / name).is_file() for name in (STORED, STORED_PRIVATE))


def finished_of(folder: Path) -> Finished:
    """Find the results of the distillation in `folder`: a page of them shows what `dpd distill` shows at its end.

    Its bundle lies beside it, as `dpd distill` put it there. Where the two were moved, no other place is looked at: a
    folder that somebody else made could name any.

    Raises:
        InputError: nothing is finished, or the folder is of another version.
    """
    if (folder / STORED).is_file():
        made = read_distillation(folder)
        results, out, unaudited = made.results, made.out, made.unaudited
    else:
        out, unaudited = Path(read_request(folder).out), folder / "unaudited.dpd"
        results = {"bundle": out}
    own = folder.absolute().with_name(out.name)
    results |= {"bundle": own if own.exists() or not unaudited.exists() else unaudited}
    there = {what: path for what, path in results.items() if (path / RECORDS.get(what, "")).exists()}
    missing = [f"{folder}: there is no {what} yet" for what in results if what not in there]
    if there.get("bundle") == unaudited:
        missing.append(f"{folder}: its bundle is not audited yet")
    if not there:
        raise InputError(f"{folder}: nothing of this distillation is finished; continue it: {resume_command(own)}")
    return Finished(tuple(there.values()), tuple(missing))
