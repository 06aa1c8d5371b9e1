"""The run directory (DESIGN §5): whether a run may write to it, and what it remembers between sessions."""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpd_runtime.annotations import Progress
from dpd_runtime.errors import InputError
from dpd_runtime.files import write_atomically
from dpd_train.config import TrainConfig, option

if TYPE_CHECKING:
    from dpd_train.compute.device import TimeUp

log = logging.getLogger(__name__)
TICK = 5.0  # seconds; a killed session loses this much time


def check_run_folder(out: Path, resume: bool) -> None:
    """Check that `out` is free, or holds an unfinished run that is to be resumed.

    Raises:
        InputError: `out` holds a finished run, an unfinished one without `resume`, or something else.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"{out} is a file; choose another --out")
    if (out / "run.json").exists():
        raise InputError(f"{out} holds a finished run; choose another --out")
    if not any(out.iterdir()):
        return
    try:
        ours = {"config", "data"} <= set(json.loads((out / "checkpoints" / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        ours = False
    if not ours:
        raise InputError(f"{out} is not empty and holds no unfinished run; choose another --out")
    if not resume:
        raise InputError(f"{out} holds an unfinished run; pass --resume to continue it, or choose another --out")


def match_config(path: Path, config: TrainConfig, data: dict[str, Any]) -> None:
    """Check that a resumed run has the config and data of the first session, which writes them to `path`.

    Raises:
        InputError: another config or other data.
    """
    content = json.loads(json.dumps({"config": asdict(config), "data": data}))
    if not path.exists():
        write_atomically(path, json.dumps(content).encode())
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    if before != content:
        changed = [option(k) for k, v in content["config"].items() if before["config"].get(k) != v]
        had = f"another {', '.join(changed)}" if changed else "other data"
        raise InputError(f"--resume: the unfinished run had {had}; use the same, or another --out")


class Stopwatch:
    """Seconds of all sessions of a run, stored in `path` every few seconds, so that a kill loses little."""

    def __init__(self, path: Path) -> None:
        self._path, self._begun = path, time.monotonic()
        try:
            self._before = float(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            self._before = 0.0
        self._written = self._begun
        self.stage = ""  # the one that moved last

    @property
    def seconds(self) -> float:
        """Seconds of all sessions so far."""
        return round(self._before + time.monotonic() - self._begun, 3)

    def keep(self) -> None:
        """Store the time."""
        self._written = time.monotonic()
        write_atomically(self._path, json.dumps(self.seconds).encode())

    def unfinished(self, stop: "TimeUp") -> dict[str, Any]:
        """Store the time. Returns the stage, its step and the seconds for the caller."""
        self.keep()
        return {"unfinished": {"stage": self.stage, "step": stop.step, "steps": stop.steps}, "seconds": self.seconds}

    def around(self, stages: Callable[[str], Progress]) -> Callable[[str], Progress]:
        """The same progress, which also stores the time. A stage that has nothing left to do is not announced."""

        def stage(title: str) -> Progress:
            update: Progress | None = None

            def both(done: int, total: int) -> None:
                nonlocal update
                update = update or stages(title)
                update(done, total)
                self.stage = title
                if time.monotonic() - self._written > TICK:
                    self.keep()

            return both

        return stage
