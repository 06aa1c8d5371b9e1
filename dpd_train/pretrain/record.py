"""The record of a base's training: what it is trained on, timing of a stage, and one line for each call."""

import json
import time
from pathlib import Path

from diffusers import AutoencoderKL

from dpd_runtime.annotations import Progress
from dpd_runtime.errors import InputError
from dpd_runtime.files import write_atomically
from dpd_train.bases.folder import RECORD_NAME, base_folder
from dpd_train.bases.latents import weights_hash


class Timed:
    """Progress that also measures the steps of this call and steps per second, without the first step (warm-up)."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.begun = progress, time.monotonic()
        self.first: tuple[float, int] | None = None
        self.last = (self.begun, 0)

    def __call__(self, step: int, steps: int) -> None:
        self.last = (time.monotonic(), step)
        self.first = self.first or self.last
        self.progress(step, steps)

    def summary(self) -> dict[str, float]:
        """{"seconds": of the whole stage, "steps": done, "steps_per_second": once warm}."""
        seconds = round(time.monotonic() - self.begun, 2)
        if self.first is None:
            return {"seconds": seconds, "steps": 0, "steps_per_second": 0.0}
        warm, done = self.last[0] - self.first[0], self.last[1] - self.first[1]
        return {"seconds": seconds, "steps": done + 1, "steps_per_second": round(done / warm, 2) if warm else 0.0}


def pieces(state: Path, start: str | None) -> list[str]:
    """Lines about earlier calls, beginning with those of the base that the run started from.

    Args:
        state: folder of the state. start: that base, or None.
    """
    path = state / "pieces.json"
    if path.exists():
        done: list[str] = json.loads(path.read_text(encoding="utf-8"))
        return done
    record = base_folder(start) / RECORD_NAME if start else None
    if record is None or not record.exists():
        return []
    before = json.loads(record.read_text(encoding="utf-8"))
    return [*before.get("pieces", []), "from here on with the start of that base"]


def add_piece(state: Path, start: str | None, line: str) -> None:
    """Add a line about this call to the list in the state."""
    write_atomically(
        state / "pieces.json", json.dumps([*pieces(state, start), line], indent=1, allow_nan=False).encode()
    )


def check_same(state: Path, data: dict[str, object], resolution: int, seed: int, start: AutoencoderKL | None) -> None:
    """Note what a state is trained on, or check that it was the same: the base's record names these images.

    Args:
        data: `Pool.record`.
        start: VAE that the training begins at.

    Raises:
        InputError: a state of other images, at another size, of another seed or from another start.
    """
    path = state / "of.json"
    of_start = None if start is None else weights_hash(start)
    told = {"data": data, "resolution": resolution, "seed": seed, "start": of_start}
    if not path.exists():
        write_atomically(path, (json.dumps(told, indent=1, allow_nan=False) + "\n").encode())
    elif json.loads(path.read_text(encoding="utf-8")) != json.loads(json.dumps(told, allow_nan=False)):
        raise InputError(
            f"{state}: holds the training of a base on other images or bands, or with another --seed or --start; give "
            "another --state"
        )
