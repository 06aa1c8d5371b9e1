"""What is noted while a run goes on: seconds of each stage, and figures for an experiment tracker (accelerate)."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpd_runtime.annotations import Progress
from dpd_runtime.errors import InputError, MissingExtraError
from dpd_runtime.files import write_atomically

if TYPE_CHECKING:
    from dpd_train.compute import TimeUp


Track = Callable[[int, dict[str, float]], None]
"""(steps done, figures) → None."""

TICK = 5.0  # seconds; a killed session loses this much time
TRACKERS = ("aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb")
"""Those that accelerate knows, written down here as it loads PyTorch. Each is the module that it imports."""
MODULES = {"tensorboard": ("tensorboard", "tensorboardX")}  # where one of several will do
PACKAGES = {"comet_ml": "comet-ml"}  # where the package index uses another name than accelerate


def check_tracker(name: str | None) -> None:
    """Check that the tracker can be used; None is no tracker. Loads no PyTorch.

    Raises:
        InputError: accelerate does not know the tracker, or it is not installed.
        MissingExtraError: accelerate itself is not installed.
    """
    if name is None:
        return
    if name not in TRACKERS:
        raise InputError(f"--tracker {name!r} is unknown: use {', '.join(TRACKERS)}")
    if find_spec("accelerate") is None:
        raise MissingExtraError("accelerate", "train")
    if not any(find_spec(module) for module in MODULES.get(name, (name,))):
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

    kind = LOGGER_TYPE_TO_CLASS.get(name)
    if kind is None:
        raise InputError(f"--tracker {name}: this version of accelerate does not know it; upgrade accelerate")
    tracker = kind("dpd", str(folder)) if kind.requires_logging_directory else kind("dpd")
    if hasattr(tracker, "start"):  # older versions of accelerate start a tracker when it is made
        tracker.start()
    tracker.store_init_configuration({key: value for key, value in config.items() if value is not None})
    try:
        yield lambda step, figures: tracker.log(figures, step=step)
    finally:
        tracker.finish()


class Stopwatch:
    """Seconds of all sessions of a run, stored in `path` every few seconds, so that a kill loses little.

    Attributes:
        stages: seconds of each stage up to its last step. What lies between two stages counts for the later one.
        stage: the one that moved last.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._begun = path, time.monotonic()
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            self._before = float(stored["seconds"])
            self.stages = {str(title): float(seconds) for title, seconds in stored["stages"].items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            self._before, self.stages = 0.0, {}
        self._written = self._moved = self._begun
        self.stage = ""

    @property
    def seconds(self) -> float:
        """Seconds of all sessions so far."""
        return round(self._before + time.monotonic() - self._begun, 3)

    def times(self) -> dict[str, Any]:
        """What a record says: the seconds of all sessions, and of each stage."""
        return {"seconds": self.seconds, "stages": {title: round(spent, 1) for title, spent in self.stages.items()}}

    def end(self, title: str) -> None:
        """Let what passed since the last step of a stage count for `title`."""
        now = time.monotonic()
        self.stages[title] = self.stages.get(title, 0.0) + now - self._moved
        self._moved = now

    def keep(self) -> None:
        """Store the times."""
        self._written = time.monotonic()
        write_atomically(self._path, json.dumps(self.times(), allow_nan=False).encode())

    def unfinished(self, stop: "TimeUp") -> dict[str, Any]:
        """Store the times. Returns the stage, its step and the seconds for the caller."""
        self.keep()
        return {"unfinished": {"stage": self.stage, "step": stop.step, "steps": stop.steps}, "seconds": self.seconds}

    def around(self, stages: Callable[[str], Progress]) -> Callable[[str], Progress]:
        """The same progress, which also stores the times. A stage that has nothing left to do is not announced."""

        def stage(title: str) -> Progress:
            update: Progress | None = None

            def both(done: int, total: int) -> None:
                nonlocal update
                update = update or stages(title)
                update(done, total)
                now = time.monotonic()
                self.stages[title] = self.stages.get(title, 0.0) + now - self._moved
                self.stage, self._moved = title, now
                if now - self._written > TICK:
                    self.keep()

            return both

        return stage
