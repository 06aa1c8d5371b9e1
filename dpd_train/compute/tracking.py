"""Experiment trackers through accelerate: losses and learning rate of a run, logged while it runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dpd_runtime.errors import InputError, MissingExtraError

Track = Callable[[int, dict[str, float]], None]
"""(steps done, figures) → None."""

PACKAGES = {"comet_ml": "comet-ml"}  # where the package index uses another name than accelerate


def check_tracker(name: str | None) -> None:
    """Check that the tracker can be used; None is no tracker.

    Raises:
        InputError: accelerate does not know the tracker, or it is not installed.
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
    """A function that logs figures of a step; None without a tracker.

    Args:
        folder: for trackers that write files. config: stored with the run.
    """
    if name is None:
        yield None
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    kind = LOGGER_TYPE_TO_CLASS[name]
    tracker = kind("dpd", str(folder)) if kind.requires_logging_directory else kind("dpd")
    if hasattr(tracker, "start"):  # older versions of accelerate start a tracker when it is made
        tracker.start()
    tracker.store_init_configuration({key: value for key, value in config.items() if value is not None})
    try:
        yield lambda step, figures: tracker.log(figures, step=step)
    finally:
        tracker.finish()
