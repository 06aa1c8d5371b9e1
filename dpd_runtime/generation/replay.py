"""The golden replay: does this machine make the same images as PyTorch (docs/reference/bundle-format.md)?"""

import time
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from dpd_runtime.annotations import Float32, Images
from dpd_runtime.bundle.bundle import Bundle
from dpd_runtime.engines.engine import Provider
from dpd_runtime.errors import CheckError
from dpd_runtime.generation.cases import bundle_decoder, bundle_networks, sample_case
from dpd_runtime.generation.golden import Golden, golden_case, golden_decodes, golden_of, middle
from dpd_runtime.sampling.noise import noise_parts

NOISE_ROUNDING = 2.0**-10
"""Twice the largest relative rounding error of float16."""
EQUAL_PSNR = 99.0
NOT_FINITE = 1e9


def psnr_limit(precision: str) -> float:
    """The smallest accepted PSNR in dB of a bundle's images against PyTorch's: 30 with fewer bits."""
    return 40.0 if precision == "fp32" else 30.0


def psnr(images: Images, expected: Images) -> float:
    """Peak signal-to-noise ratio in dB of uint8 images of one shape; 99 for equal images."""
    squares = (np.square(a.astype(np.int32) - b).sum(dtype=np.int64) for a, b in zip(images, expected, strict=True))
    mse = sum(map(int, squares)) / images.size
    return EQUAL_PSNR if mse == 0 else 10 * float(np.log10(255.0**2 / mse))


@dataclass(frozen=True)
class Replay:
    """The result of a replay.

    Args:
        psnr_db: of all images together. worst_psnr_db: of the worst image.
        halfway_error, latents_error: largest difference from PyTorch's latents, relative to their largest value.
        noise_matches: whether this machine generates the same noise. These three are None for a codes-only bundle.
    """

    images: int
    psnr_db: float
    worst_psnr_db: float
    limit_db: float
    halfway_error: float | None
    latents_error: float | None
    noise_matches: bool | None
    seconds: float

    @property
    def good(self) -> bool:
        return self.psnr_db >= self.limit_db and self.noise_matches is not False


def replay(bundle: Bundle, provider: Provider, threads: int | None = None) -> Replay | None:
    """Make the golden images again on `provider`; None if the bundle has none."""
    if bundle.manifest.codes_only:
        return replay_decoder(bundle, provider, threads)
    golden = golden_of(bundle)
    if golden is None:
        return None
    started = time.monotonic()
    denoise, decode = bundle_networks(bundle, provider, threads, middle)
    halfway, latents = sample_case(denoise, golden_case(golden, bundle))
    images = decode(np.nan_to_num(latents))
    compared = _compared(images, golden.images, provider.computes_in(bundle.manifest.precision), started)
    return replace(
        compared,
        halfway_error=_distance(halfway, golden.halfway),
        latents_error=_distance(latents, golden.latents),
        noise_matches=_noise_matches(bundle, golden),
    )


def replay_decoder(bundle: Bundle, provider: Provider, threads: int | None = None) -> Replay | None:
    """Decode the golden latents, or a codes-only bundle's golden codes, on `provider`; None if the bundle has none."""
    golden = golden_decodes(bundle)
    if golden is None:
        return None
    started = time.monotonic()
    images = bundle_decoder(bundle, provider, threads, middle)(golden[0])
    return _compared(images, golden[1], provider.computes_in(bundle.manifest.precision), started)


def _compared(images: Images, expected: Images, precision: str, started: float) -> Replay:
    """Compare images alone. started: time.monotonic() before they were made."""
    return Replay(
        images=len(images),
        psnr_db=round(psnr(images, expected), 2),
        worst_psnr_db=round(min(psnr(a, b) for a, b in zip(images, expected, strict=True)), 2),
        limit_db=psnr_limit(precision),
        halfway_error=None,
        latents_error=None,
        noise_matches=None,
        seconds=round(time.monotonic() - started, 2),
    )


def _distance(latents: Float32, expected: Float32) -> float:
    error = float(np.abs(latents - expected).max()) / (float(np.abs(expected).max()) or 1.0)
    return round(error, 6) if np.isfinite(error) else NOT_FINITE


def _noise_matches(bundle: Bundle, golden: Golden) -> bool:
    for column, label in enumerate(golden.labels):
        noise, gain = golden.noise[:, column], bundle.manifest.sampler.mean_noise_gain
        name, shape = bundle.classes[label].name, bundle.manifest.latent_shape
        expected = noise_parts(golden.seed, name, 0, 0, shape, len(noise) - 1, gain)
        if not all(map(partial(np.allclose, rtol=NOISE_ROUNDING, atol=1e-6), noise, expected)):
            return False
    return True


def check_replay(done: Replay, precision: str, provider: str) -> None:
    """Check the result of a replay.

    Raises:
        CheckError: the noise or the images differ too much.
    """
    if done.noise_matches is False:
        raise CheckError("golden replay: this machine generates other noise than the exporter's; please report it")
    if not done.good:
        raise CheckError(
            f"golden replay: {done.psnr_db:.1f} dB on {provider}, {precision} needs {done.limit_db:.0f} dB; "
            "try --provider cpu, or a bundle exported with --precision fp32"
        )
