"""The golden gate: does a provider make PyTorch's images on this machine (docs/guides/generate.md)?

A provider is asked once. The answer is kept in the user's cache until the bundle, a package, the driver or the device
is another one. It protects from wrong kernels and drivers, not from a hostile bundle, which brings its own images.
"""

import hashlib
import json
import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dpd_runtime.bundle.bundle import Bundle
from dpd_runtime.bundle.engine_fit import this_os
from dpd_runtime.engines.engine import Provider
from dpd_runtime.engines.execution_providers import FLAVOURS
from dpd_runtime.engines.openvino import gpu_of_openvino
from dpd_runtime.engines.site_cache import seal
from dpd_runtime.errors import CheckError
from dpd_runtime.files import read_cached, spare_cache, write_atomically
from dpd_runtime.generation.networks import LATENT_CLASSIFIER, UNET, latent_logits, load_networks
from dpd_runtime.generation.replay import replay, replay_decoder
from dpd_runtime.machine.driver import nvidia_driver
from dpd_runtime.machine.versions import cpu_flags, versions

CACHE = "golden"


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
        CheckError: the images differ by more than the precision allows.
        ProviderError: the provider does not run a graph.
    """
    verdict = _remembered(_key(bundle, provider, UNET in graphs))
    if verdict is None:
        return measure(bundle, provider, UNET in graphs, threads)
    _check(bundle, provider, verdict)
    return verdict


def measure(bundle: Bundle, provider: Provider, sampled: bool, threads: int) -> GoldenVerdict | None:
    """Compare the provider's golden images with PyTorch's now, and keep the answer and what the provider compiled.

    Args:
        sampled: whether to try all of sampling, or the decoder alone.

    Returns, Raises: as `pass_gate`.
    """
    verdict = _measure(bundle, provider, sampled, threads)
    if provider.name in FLAVOURS:
        seal(bundle.engine_cache(bundle.site(provider)))
    if verdict is not None:
        _remember(_key(bundle, provider, sampled), verdict)
        _check(bundle, provider, verdict)
    return verdict


def compile_here(bundle: Bundle, provider: Provider, threads: int) -> tuple[Path | None, GoldenVerdict | None]:
    """Compile all graphs of generation for this machine's GPU, check the golden images, and keep both in the cache.

    Returns:
        The file in the cache, None where there is no place for it; and the verdict, None without golden images.

    Raises:
        CheckError, MissingExtraError, ProviderError: as `pass_gate`.
    """
    networks = load_networks(bundle, provider, threads, now=())
    batch = np.zeros((bundle.manifest.sampler.compute_batch, *bundle.manifest.latent_shape), np.float32)
    if LATENT_CLASSIFIER in bundle.files:
        latent_logits(networks.latent_classifier, batch, len(bundle.classes))
    del networks  # what it compiled is written when its session ends
    verdict = measure(bundle, provider, not bundle.manifest.codes_only, threads)
    return bundle.engine_cache(bundle.site(provider)), verdict


def _check(bundle: Bundle, provider: Provider, verdict: GoldenVerdict) -> None:
    if not verdict.good:
        raise CheckError(
            f"provider {provider.name}: its images differ from PyTorch's ({verdict.psnr_db:.1f} dB, "
            f"{provider.computes_in(bundle.manifest.precision)} needs {verdict.limit_db:.0f} dB); "
            f"dpd verify --provider {provider.name} says more; use another --provider, or a bundle "
            "exported with --precision fp32"
        )


def _measure(bundle: Bundle, provider: Provider, sampled: bool, threads: int) -> GoldenVerdict | None:
    done = (replay if sampled else replay_decoder)(bundle, provider, threads)
    return None if done is None else GoldenVerdict(done.psnr_db, done.limit_db)


def _key(bundle: Bundle, provider: Provider, sampled: bool) -> dict[str, Any]:
    """Everything on which the answer depends."""
    key = {
        "bundle": bundle.hash,
        "provider": provider.name,
        "precision": provider.precision,
        "part": "all" if sampled else "decoder",
        "versions": versions(),
        "system": this_os(),
    }
    if provider.on_cpu:
        return key | {"cpu_flags": cpu_flags()}
    if provider.name == "openvino":
        return key | {"device": provider.device, "gpu": gpu_of_openvino(provider.device)}
    driver = nvidia_driver()
    gpu = driver.gpus[provider.device] if provider.device < len(driver.gpus) else None
    named = None if gpu is None else [gpu.name, gpu.compute_capability]
    # engines of the bundle itself are used if a trusted key signed it, which the bundle's hash does not tell
    signed = {"trusted": bundle.signature.trusted}
    return key | signed | {"driver": [driver.version, driver.cuda], "device": provider.device, "gpu": named}


def _file(key: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True, allow_nan=False).encode()).hexdigest()[:32] + ".json"


def _remembered(key: dict[str, Any]) -> GoldenVerdict | None:
    """The answer in the cache; None if there is none that can be read."""
    folder = spare_cache(CACHE)
    raw = None if folder is None else read_cached(folder / _file(key))
    if raw is None:
        return None
    try:
        content = json.loads(raw)
        verdict = GoldenVerdict(content["psnr_db"], content["limit_db"])
        good = content["key"] == key and all(
            type(n) is float and math.isfinite(n) for n in (verdict.psnr_db, verdict.limit_db)
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return verdict if good else None


def _remember(key: dict[str, Any], verdict: GoldenVerdict) -> None:
    """Write the answer to the cache. On a disk that cannot be written the provider is asked again next time."""
    content = {"key": key, "psnr_db": verdict.psnr_db, "limit_db": verdict.limit_db}
    folder = spare_cache(CACHE)
    if folder is None:
        return
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(
            folder / _file(key), (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
        )
    except OSError:
        return
