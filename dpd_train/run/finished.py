"""A finished run: its record and class table, read without PyTorch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpd_runtime.errors import InputError
from dpd_runtime.files import read_object
from dpd_runtime.images.bands import Band
from dpd_train.remarks import network_remarks, recorded_sides, size_remarks
from dpd_train.run.folder import resume_command


@dataclass(frozen=True)
class FinishedRun:
    """A run directory that `dpd train` completed.

    Args:
        record: the content of run.json.
        table: the content of classes.json.
    """

    path: Path
    record: dict[str, Any]
    table: dict[str, Any]

    @property
    def bands(self) -> tuple[Band, ...]:
        """What the channels of the images are; empty for RGB."""
        return tuple(Band(**band) for band in self.record.get("rendering", {}).get("carried", ()))


def told_of_size(record: Mapping[str, Any]) -> list[str]:
    """What became of the size of a run's scenes, from its run.json; nothing where that does not say.

    With --crop patches of the run's side were cut out of larger scenes.
    """
    sides = recorded_sides(record["data"].get("scene_sides"))
    return [] if sides is None or record.get("crop") else size_remarks(sides, record["config"]["resolution"])


def told_of_networks(record: Mapping[str, Any]) -> list[str]:
    """A line if a run's networks were trained on few images of a class, from its run.json."""
    counts = record.get("scenes") or record["data"]["classes"]
    return network_remarks(counts, matched=record["config"].get("prototypes") == "matched")


def read_run(path: Path) -> FinishedRun:
    """Read run.json and classes.json, and load no network.

    Raises:
        InputError: `path` holds no finished run, or one without classifiers.
    """
    if not (path / "run.json").is_file():
        unfinished = (path / "checkpoints").is_dir()
        hint = f"finish it: {resume_command(path)}" if unfinished else "give a folder that dpd train left"
        raise InputError(f"{path}: no run.json in it; {hint}")
    record, table = (_object(path / name) for name in ("run.json", "classes.json"))
    if "federated" in record and not (path / "classifier").is_dir():
        raise InputError(
            f"{path}: a federated server's run without images has no classifiers; on a machine with images, make a "
            f"complete run with dpd train DATA --base {path / 'pipeline'} --steps 0 --out RUN"
        )
    return FinishedRun(path, record, table)


def _object(path: Path) -> dict[str, Any]:
    return read_object(path, f"{path}:", "give a folder that dpd train left")
