"""Experiment trackers, through accelerate: figures of a run, written while it runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dpd_runtime.errors import InputError, MissingExtraError

Track = Callable[[int, dict[str, float]], None]

PACKAGES = {"comet_ml": "comet-ml"}  # where the index has another name than accelerate


def check_tracker(name: str | None) -> None:
    """Raises:
    InputError: a tracker that accelerate does not know, or one that is not installed.
    MissingExtraError: accelerate itself is not installed.
    """
    if name is None:
        return
    try:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
    except ImportError as error:
        raise MissingExtraError("accelerate", "train") from error
    if name not in LOGGER_TYPE_TO_CLASS:
        raise InputError(f"--tracker {name!r} is unknown: use {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}")
    if name not in {str(available) for available in get_available_trackers()}:
        raise InputError(f"--tracker {name} is not installed: pip install {PACKAGES.get(name, name)}")


@contextmanager
def tracked(name: str | None, folder: Path, config: dict[str, Any]) -> Iterator[Track | None]:
    """The tracker's `log`, for figures by step; None where there is no tracker.

    Args:
        folder: for trackers that write files. config: what the run was asked for.
    """
    if name is None:
        yield None
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    kind = LOGGER_TYPE_TO_CLASS[name]
    tracker = kind("dpd", str(folder)) if kind.requires_logging_directory else kind("dpd")
    if hasattr(tracker, "start"):  # before it had one, accelerate started a tracker as it was made
        tracker.start()
    tracker.store_init_configuration({key: value for key, value in config.items() if value is not None})
    try:
        yield lambda step, figures: tracker.log(figures, step=step)
    finally:
        tracker.finish()
