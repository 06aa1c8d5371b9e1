"""Profile one `dpd generate`: where its wall time goes, and for how much of it no network runs.

    python benchmarks/profile_generate.py --out benchmarks/results/profile.json

The command's own functions run in this process, each with a clock around it. A span's time excludes the spans inside
it. All spans are of the main thread, where the networks run one after another. The main loop is `write_blocks`: from
finding what is missing to the last file on disk. `outside_share` is the part of its wall time in which no network runs.
Before and after the loop come opening, loading, and the last pass over the set. Other threads make noise and files: the
main thread's waiting for them is part of the loop, and their CPU time is reported separately, because on few cores it
slows the networks down.
"""

import argparse
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from result_file import tell

import dpd_runtime.dataset.write as dataset
import dpd_runtime.generation.compute as compute
from dpd_runtime import embedded_bundle, load_bundle, write_set
from dpd_runtime.checks.doctor import this_machine
from dpd_runtime.generation.compute import BlockComputer
from dpd_runtime.generation.generate import Generation
from dpd_runtime.generation.networks import Networks
from dpd_runtime.machine.cores import usable_cores

generating: Any = sys.modules[Generation.__module__]  # `dpd_runtime.generation.generate` is the function
LOOP = "the loop itself: what is missing, progress"
CALLS = {name: f"calls: {name}" for name in ("unet", "judge", "decoder")}


@dataclass
class Clock:
    """Wall and CPU seconds of the main thread's spans, without nested spans, and CPU seconds of other threads."""

    wall: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    cpu: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    beside: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    in_loop: set[str] = field(default_factory=set)
    _open: list[str] = field(default_factory=list)
    _since: tuple[float, float] = (0.0, 0.0)

    def _turn(self) -> None:
        """Add the time since the last turn to the innermost open span."""
        now = (time.perf_counter(), time.thread_time())
        if self._open:
            self.wall[self._open[-1]] += now[0] - self._since[0]
            self.cpu[self._open[-1]] += now[1] - self._since[1]
        self._since = now

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        self._turn()
        self._open.append(name)
        if LOOP in self._open:
            self.in_loop.add(name)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.span(name):
                return function(*args, **kwargs)

        return timed

    def elsewhere(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Measure a function that another thread calls."""

        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            begun = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.beside[name] += time.thread_time() - begun

        return timed


@dataclass(frozen=True)
class _Called:
    run: Callable[..., Any]


def watch(clock: Clock) -> None:
    """Put clocks around the runtime's own functions."""
    load, ahead, behind = generating.load_networks, generating.ahead, dataset.writing_behind

    def networks(*args: Any) -> Networks:
        with clock.span("session creation"):
            found = load(*args)
        return Networks(**{name: _Called(clock.around(CALLS[name], getattr(found, name).run)) for name in CALLS})

    def waiting(items: Any, make: Any) -> Iterator[Any]:
        made = iter(ahead(items, clock.elsewhere("noise", make)))
        while True:
            with clock.span("waiting for noise"):
                entry = next(made, None)
            if entry is None:
                return
            yield entry

    @contextmanager
    def writing(write: Any) -> Iterator[Any]:
        entered = behind(clock.elsewhere("encoding and writing files", write))
        put = entered.__enter__()
        try:
            yield clock.around("waiting for the writer", put)
        finally:
            with clock.span("the last block's files"):
                entered.__exit__(None, None, None)

    generating.load_networks, generating.ahead, dataset.writing_behind = networks, waiting, writing  # type: ignore[assignment]
    compute.sample = clock.around("steps and guidance in numpy", compute.sample)
    BlockComputer.images = clock.around("selection, scaling, bytes", BlockComputer.images)  # type: ignore[method-assign]
    dataset._Writing.write_blocks = clock.around(LOOP, dataset._Writing.write_blocks)  # type: ignore[method-assign]
    dataset.complete = clock.around("last pass: every image read back, metadata, contact sheet", dataset.complete)


def table(clock: Clock, names: list[str], whole: float) -> dict[str, Any]:
    return {
        name: {
            "seconds": round(clock.wall[name], 4),
            "main_thread_cpu_seconds": round(clock.cpu[name], 4),
            "share": round(clock.wall[name] / whole, 5),
        }
        for name in sorted(names, key=lambda name: -clock.wall[name])
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="default: the embedded bundle")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--classes", help="default: all")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    clock = Clock()
    watch(clock)
    load = os.getloadavg()[0]
    with TemporaryDirectory(prefix="dpd-profile-") as folder, clock.span("the rest of the command"):
        with clock.span("verification: every hash, parsing"):
            bundle = load_bundle(args.bundle or embedded_bundle())
        classes = tuple(args.classes.split(",")) if args.classes else None
        generation = Generation(bundle, ipc=args.ipc, seed=args.seed, classes=classes)
        done = write_set(generation, Path(folder) / "set")
    loop = sum(clock.wall[name] for name in clock.in_loop)
    calls = sum(clock.wall[name] for name in CALLS.values())
    machine = this_machine()
    result = {
        "bundle": bundle.manifest.name,
        "set_hash": done.set_hash,
        "images": done.images,
        "threads": generation.threads,
        "machine": {"processor": machine.processor, "cores": usable_cores(), "load_before": load},
        "loop_seconds": round(loop, 3),
        "outside_share": round(1 - calls / loop, 4),
        "loop": table(clock, list(clock.in_loop), loop),
        "before_and_after": table(clock, [name for name in clock.wall if name not in clock.in_loop], loop),
        "cpu_seconds_in_threads_beside": {name: round(value, 3) for name, value in clock.beside.items()},
    }
    tell(result, args.out)


if __name__ == "__main__":
    main()
