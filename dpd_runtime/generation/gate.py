"""The golden gate: does a provider make PyTorch's images on this machine (DESIGN §9)?

A provider is asked once. The answer is kept in the user's cache until the bundle, a package, the driver or the device
is another one. It protects from wrong kernels and drivers, not from a hostile bundle, which brings its own images.
"""

import hashlib
import json
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from dpd_runtime.bundle.bundle import Bundle
from dpd_runtime.bundle.engine_fit import this_os
from dpd_runtime.engines.engine import Provider
from dpd_runtime.errors import CheckError
from dpd_runtime.files import cache_folder, write_atomically
from dpd_runtime.generation.cases import bundle_decoder
from dpd_runtime.generation.golden import golden_decodes, middle
from dpd_runtime.generation.networks import UNET
from dpd_runtime.generation.replay import psnr, psnr_limit, replay
from dpd_runtime.machine.driver import nvidia_driver
from dpd_runtime.machine.versions import cpu_flags, versions

CACHE = "golden"
LARGEST_VERDICT = 2**16  # bytes of a file in the cache


@dataclass(frozen=True)
class GoldenVerdict:
    """How close a provider's images are to PyTorch's: PSNR in dB over all golden images, and what is needed."""

    psnr_db: float
    limit_db: float

    @property
    def good(self) -> bool:
        return self.psnr_db >= self.limit_db


def pass_gate(bundle: Bundle, provider: Provider, graphs: Collection[str], threads: int) -> GoldenVerdict | None:
    """Compare the provider's golden images with PyTorch's, or take the answer that this machine gave before.

    Args:
        graphs: what the generation needs. Without the UNet, only the decoder is tried, on the golden latents.

    Returns:
        The verdict; None for a bundle without golden images.

    Raises:
        CheckError: the images differ by more than the bundle's precision allows.
        ProviderError: the provider does not run a graph.
    """
    key = _key(bundle, provider, UNET in graphs)
    found = _remembered(key)
    if found is None:
        found = _measure(bundle, provider, UNET in graphs, threads)
        if found is None:
            return None
        _remember(key, found)
    if not found.good:
        raise CheckError(
            f"provider {provider.name}: its images differ from PyTorch's ({found.psnr_db:.1f} dB, "
            f"{bundle.manifest.precision} needs {found.limit_db:.0f} dB); dpd verify --provider {provider.name} says "
            "more; use another --provider, or a bundle exported with --precision fp32"
        )
    return found


def _measure(bundle: Bundle, provider: Provider, sampled: bool, threads: int) -> GoldenVerdict | None:
    limit = psnr_limit(bundle.manifest.precision)
    if sampled:
        done = replay(bundle, provider, threads)
        return None if done is None else GoldenVerdict(done.psnr_db, limit)
    golden = golden_decodes(bundle)
    if golden is None:
        return None
    latents, expected = golden
    images = middle(bundle_decoder(bundle, provider, threads)(latents))
    return GoldenVerdict(round(psnr(images, expected), 2), limit)


def _key(bundle: Bundle, provider: Provider, sampled: bool) -> dict[str, Any]:
    """Everything on which the answer depends."""
    key = {
        "bundle": bundle.hash,
        "provider": provider.name,
        "part": "all" if sampled else "decoder",
        "versions": versions(),
        "system": this_os(),
    }
    if provider.name == "cpu":
        return key | {"cpu_flags": cpu_flags()}
    driver = nvidia_driver()
    gpu = driver.gpus[provider.device] if provider.device < len(driver.gpus) else None
    named = None if gpu is None else [gpu.name, gpu.compute_capability]
    return key | {"driver": [driver.version, driver.cuda], "device": provider.device, "gpu": named}


def _file(key: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32] + ".json"


def _remembered(key: dict[str, Any]) -> GoldenVerdict | None:
    """The answer in the cache; None if there is none that can be read."""
    try:
        content = json.loads((cache_folder(CACHE) / _file(key)).read_bytes()[:LARGEST_VERDICT])
        found = GoldenVerdict(content["psnr_db"], content["limit_db"])
        good = content["key"] == key and all(
            type(n) is float and math.isfinite(n) for n in (found.psnr_db, found.limit_db)
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if good else None


def _remember(key: dict[str, Any], verdict: GoldenVerdict) -> None:
    """Write the answer to the cache. On a disk that cannot be written the provider is asked again next time."""
    content = {"key": key, "psnr_db": verdict.psnr_db, "limit_db": verdict.limit_db}
    try:
        folder = cache_folder(CACHE)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(folder / _file(key), (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())
    except OSError:
        return
