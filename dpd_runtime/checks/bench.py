"""Measure the speed of a bundle on this machine, and the share of each network."""

import resource
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from dpd_runtime.annotations import Array, Progress
from dpd_runtime.bundle.bundle import Bundle
from dpd_runtime.dataset.write import write_set
from dpd_runtime.engines.engine import Engine
from dpd_runtime.errors import InputError
from dpd_runtime.generation.compute import BlockComputer
from dpd_runtime.generation.generate import Generation
from dpd_runtime.generation.networks import Networks, load_networks
from dpd_runtime.sampling.sampler import BLOCK


class TimedEngine:
    """An engine that records the seconds of each call."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.seconds: list[float] = []

    def run(self, **inputs: Array) -> Array:
        begun = time.perf_counter()
        output = self._engine.run(**inputs)
        self.seconds.append(time.perf_counter() - begun)
        return output


@dataclass(frozen=True)
class NetworkTime:
    calls: int
    median_ms: float
    share: float


@dataclass(frozen=True)
class BenchResult:
    """The measured figures.

    Args:
        images, seconds: of generation and writing, without loading the graphs (`load_seconds`).
        batch: latents in a UNet call without guidance; twice as many with guidance.
        networks: calls of unet, decoder and judge, and their shares of `seconds`.
        outside_share: share of `seconds` outside all networks.
        peak_memory: bytes, the highest of this process so far.
    """

    bundle: str
    provider: str
    threads: int
    images: int
    seconds: float
    images_per_second: float
    load_seconds: float
    batch: int
    network_calls: float
    networks: Mapping[str, NetworkTime]
    outside_share: float
    peak_memory: int
    set_hash: str | None


class _Timed(Generation):
    """A generation that measures the time of its networks."""

    engines: Mapping[str, TimedEngine]

    def load(self) -> BlockComputer:
        if self._computer is None:
            found = load_networks(self.bundle, self.provider, self.threads)
            self.engines = {name: TimedEngine(getattr(found, name)) for name in ("unet", "decoder", "judge")}
            self._computer = BlockComputer(self.bundle, self.sampler, Networks(**self.engines), self.seed)
        return self._computer


def bench(
    bundle: Bundle,
    *,
    blocks: int = 3,
    seed: int = 0,
    provider: str = "auto",
    threads: int | None = None,
    progress: Progress = lambda done, total: None,
) -> BenchResult:
    """Sample `blocks` blocks of ten images with the bundle's sampler into a temporary folder.

    All blocks are sampled, because decoded and re-noised ones use the networks less.

    Raises:
        InputError: `blocks` is out of range.
        ProviderError: the provider does not work here.
        DiskError: the temporary folder cannot be written.
    """
    if not 1 <= blocks <= 1000:
        raise InputError(f"blocks is {blocks}: it must be 1 … 1000")
    per_class = -(-blocks // len(bundle.classes))
    names = tuple(scene.name for scene in bundle.classes[: -(-blocks // per_class)])
    sampler = bundle.manifest.sampler.sampled()
    generation = _Timed(
        bundle, ipc=per_class * BLOCK, seed=seed, classes=names, sampler=sampler, provider=provider, threads=threads
    )
    begun = time.perf_counter()
    generation.load()
    loaded = time.perf_counter()
    with TemporaryDirectory(prefix="dpd-bench-") as folder:
        done = write_set(generation, Path(folder) / "set", progress)
        seconds = time.perf_counter() - loaded
    spent = {name: engine.seconds for name, engine in generation.engines.items()}
    return BenchResult(
        bundle=bundle.manifest.name,
        provider=generation.provider.name,
        threads=generation.threads,
        images=done.images,
        seconds=seconds,
        images_per_second=done.images / seconds,
        load_seconds=loaded - begun,
        batch=generation.sampler.compute_batch,
        network_calls=generation.network_calls,
        networks={
            name: NetworkTime(len(times), 1000 * statistics.median(times), sum(times) / seconds)
            for name, times in spent.items()
        },
        outside_share=1 - sum(map(sum, spent.values())) / seconds,
        peak_memory=_peak_memory(),
        set_hash=done.set_hash,
    )


def _peak_memory() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
