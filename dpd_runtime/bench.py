"""Measure the speed of a bundle on this machine, and the share of each network."""

import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from dpd_runtime.annotations import Array, Progress
from dpd_runtime.bundle import Bundle
from dpd_runtime.dataset import write_set
from dpd_runtime.engines import Engine
from dpd_runtime.errors import InputError
from dpd_runtime.generation import BlockComputer, Generation
from dpd_runtime.networks import Networks, load_networks
from dpd_runtime.sampler import BLOCK, Sampler

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]


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
    """The calls of one network.

    Args:
        calls: their number. median_ms: of one call, in milliseconds. share: of the seconds of all images.
    """

    calls: int
    median_ms: float
    share: float


@dataclass(frozen=True)
class KindSpeed:
    """The speed of generating and writing images that are made in one way, without loading the graphs.

    Args:
        images: number of them. seconds: wall time of all. images_per_second: their quotient.
        network_calls: UNet evaluations of one candidate; a guided step counts as two.
    """

    images: int
    seconds: float
    images_per_second: float
    network_calls: float


@dataclass(frozen=True)
class BenchResult:
    """The measured figures.

    Args:
        bundle: its name. provider, threads: what computed the images. load_seconds: time to load the graphs.
        decoded, renoised, sampled: None if the bundle makes no image in this way. A codes-only one makes decoded ones.
        batch: latents in a UNet call without guidance; twice as many with guidance.
        networks: calls of unet, decoder and latent_classifier for the last of these kinds, and their shares of its
            seconds.
        outside_share: share of its seconds outside all networks.
        peak_memory: bytes, the highest of this process so far.
        set_hash: of its images.
    """

    bundle: str
    provider: str
    threads: int
    decoded: KindSpeed | None
    renoised: KindSpeed | None
    sampled: KindSpeed | None
    load_seconds: float
    batch: int
    networks: Mapping[str, NetworkTime]
    outside_share: float
    peak_memory: int
    set_hash: str | None


class _Timed(Generation):
    """A generation with given networks."""

    engines: Mapping[str, TimedEngine]

    def load(self) -> BlockComputer:
        return BlockComputer(self.bundle, self.sampler, Networks(**self.engines), self.seed)


def bench(
    bundle: Bundle,
    *,
    blocks: int = 3,
    seed: int = 0,
    provider: str = "auto",
    threads: int | None = None,
    progress: Progress = lambda done, total: None,
) -> BenchResult:
    """Make `blocks` blocks of ten images in each of the bundle's ways, in a temporary folder.

    Raises:
        InputError: `blocks` is out of range.
        ProviderError: the provider does not work here.
        DiskError: the temporary folder cannot be written.
    """
    if not 1 <= blocks <= 1000:
        raise InputError(f"blocks is {blocks}: it must be 1 … 1000")
    names, ipc = _request(bundle, blocks)
    ways = {
        kind: _Timed(bundle, ipc=ipc, seed=seed, classes=names, sampler=sampler, provider=provider, threads=threads)
        for kind, sampler in _samplers(bundle).items()
    }
    last = [*ways.values()][-1]
    begun = time.perf_counter()
    networks = load_networks(bundle, last.provider, last.threads)
    loaded = time.perf_counter()
    speeds, total = {}, sum(map(len, ways.values()))
    for number, (kind, generation) in enumerate(ways.items()):
        generation.engines = {
            name: TimedEngine(getattr(networks, name)) for name in ("unet", "decoder", "latent_classifier")
        }

        def tell(done: int, _: int, before: int = number * len(generation)) -> None:
            progress(before + done, total)

        speeds[kind], set_hash = _measure(generation, tell)
    spent = {name: engine.seconds for name, engine in last.engines.items() if engine.seconds}
    seconds = [*speeds.values()][-1].seconds
    return BenchResult(
        bundle=bundle.manifest.name,
        provider=last.provider.name,
        threads=last.threads,
        decoded=speeds.get("decoded"),
        renoised=speeds.get("re-noised"),
        sampled=speeds.get("sampled"),
        load_seconds=loaded - begun,
        batch=last.sampler.compute_batch,
        networks={
            name: NetworkTime(len(times), 1000 * statistics.median(times), sum(times) / seconds)
            for name, times in spent.items()
        },
        outside_share=1 - sum(map(sum, spent.values())) / seconds,
        peak_memory=_peak_memory(),
        set_hash=set_hash,
    )


def _request(bundle: Bundle, blocks: int) -> tuple[tuple[str, ...], int]:
    """Class names and images of each: `blocks` blocks in all, but not more than the codes of a codes-only bundle."""
    per_class = -(-blocks // len(bundle.classes))
    scenes, ipc = bundle.classes[: -(-blocks // per_class)], per_class * BLOCK
    return tuple(scene.name for scene in scenes), min(ipc, bundle.largest_ipc or ipc)


def _samplers(bundle: Bundle) -> dict[str, Sampler]:
    """A sampler for each way in which the bundle makes images. All of its images are made in this way."""
    sampler = bundle.manifest.sampler
    first = {g.kind: replace(sampler, guidance=(replace(g, from_block=0),)) for g in reversed(sampler.guidance)}
    made: dict[str, Sampler] = {kind: first[kind] for kind in ("decoded", "re-noised") if kind in first}
    return made if bundle.manifest.codes_only else made | {"sampled": sampler.sampled()}


def _measure(generation: Generation, progress: Progress) -> tuple[KindSpeed, str | None]:
    begun = time.perf_counter()
    with TemporaryDirectory(prefix="dpd-bench-") as folder:
        done = write_set(generation, Path(folder) / "set", progress)
        seconds = time.perf_counter() - begun
    return KindSpeed(done.images, seconds, done.images / seconds, generation.network_calls), done.set_hash


def _peak_memory() -> int:
    """Bytes; 0 where the system does not tell."""
    if resource is None:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
