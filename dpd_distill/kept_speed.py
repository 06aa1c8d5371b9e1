"""The speed of this machine, measured once and kept for a day, and its present load. Loads no PyTorch by itself."""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from dpd_distill.plan import WorkSpeed
from dpd_runtime.annotations import Progress
from dpd_runtime.files import spare_cache, write_atomically
from dpd_runtime.machine import usable_cores
from dpd_runtime.versions import processor
from dpd_train.config import TrainConfig  # noqa: TID253 -- loads no PyTorch

WATCHED, IDLE = 0.5, 0.9  # seconds in which other programs are looked for; share of a core from which on there are none
KEPT = 24 * 3600  # seconds
GPU = Path("/dev/nvidia0")


def share_of_a_core() -> float:
    """The share of a core that this process gets while it computes: 1 on an idle machine."""
    begun, computed = time.perf_counter(), time.thread_time()
    while time.perf_counter() < begun + WATCHED:
        pass
    return (time.thread_time() - computed) / (time.perf_counter() - begun)


def speed_here(
    config: TrainConfig,
    threads: int,
    progress: Progress,
    tell: Callable[[str], None],
    bands: int = 0,
    judge: str | None = None,
) -> tuple[WorkSpeed, float]:
    """The speed of this machine for runs with this config on idle cores, and the share of a core that a thread gets.

    A measurement is kept for a day. One that was made beside other programs is made again when they have ended, as it
    is less exact.

    Args:
        bands: of images that carry others than RGB; 0 for RGB. judge: published network that judges the set.
        tell: prints a line before this machine is measured.
    """
    share, place = share_of_a_core(), _place(config, threads, bands, judge)
    busy = share < IDLE
    if place is not None and (kept := _read(place, busy)) is not None:
        return kept, min(1.0, share)
    tell("measures      a few steps of each kind of work on this machine; the figures are kept for a day")
    from dpd_distill.speed import speed_of

    speed = speed_of(config, threads, progress, bands, judge)
    if place is not None:
        content = {"measured": time.time(), "busy": busy, "speed": asdict(speed)}
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(place, (json.dumps(content, allow_nan=False) + "\n").encode())
        except OSError:
            pass  # it only saves time
    return speed, min(1.0, share)


def _place(config: TrainConfig, threads: int, bands: int, judge: str | None) -> Path | None:
    """The file for machines and runs like this one; None without a cache."""
    folder = spare_cache("speed")
    if folder is None:
        return None
    base = Path(config.base)
    changed = max((file.stat().st_mtime_ns for file in base.rglob("*")), default=0) if base.is_dir() else 0
    parts = (
        *(processor(), usable_cores(), threads, GPU.exists(), os.environ.get("CUDA_VISIBLE_DEVICES")),
        *(version("torch"), version("dpd-distill")),
        *(str(base.resolve()) if base.is_dir() else config.base, changed, config.resolution, bands),
        *(config.watchers, judge, config.batch, config.precision, config.tune),
    )
    return folder / f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}.json"


def _read(place: Path, busy: bool) -> WorkSpeed | None:
    """What was measured within a day; on an idle machine only what was measured on an idle machine."""
    try:
        content = json.loads(place.read_text(encoding="utf-8"))
        age, speed = time.time() - content["measured"], WorkSpeed(**content["speed"])
        sound = all(math.isfinite(value) and value >= 0 for value in asdict(speed).values())
        return speed if sound and 0 <= age < KEPT and (busy or content["busy"] is False) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None
