"""Golden images: recorded at export, replayed at a site, and the gate that they are."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from dpd_runtime.annotations import Array, Float32, Images, Pixels
from dpd_runtime.bundle import Bundle
from dpd_runtime.classes import read_tensors
from dpd_runtime.engine_files import seal
from dpd_runtime.engines import FLAVOURS, FewerRows, Provider
from dpd_runtime.errors import BundleError, CheckError
from dpd_runtime.files import parse_json, read_cached, spare_cache, write_atomically
from dpd_runtime.machine import nvidia_driver
from dpd_runtime.networks import DECODER, LATENT_CLASSIFIER, UNET, decode, denoise, groups, latent_logits, load_networks
from dpd_runtime.sampler import BlockGuidance
from dpd_runtime.sampling import Denoise, noise_draws, noise_parts, sample, to_uint8
from dpd_runtime.sessions import gpu_of_openvino
from dpd_runtime.solvers import SOLVERS, Advance, PredictionType, Step
from dpd_runtime.tensorrt import this_os
from dpd_runtime.versions import cpu_flags, versions

# -- Sampling with given noise and steps. The networks are functions: PyTorch's at export, the bundle's at the site.


@dataclass(frozen=True)
class Case:
    """The input of `sample_case`.

    Args:
        noise: [1 + draws, n, C, h, w]: start noise, then what a stochastic solver adds.
        prompts: [n, L, D]. empty: [L, D]. prototypes: [n, C, h, w] (smaller sides for kind `pooled`), or None.
        batch: rows of one call, as in `dpd_runtime.networks.groups`.
    """

    noise: Float32
    prompts: Float32
    empty: Float32
    prototypes: Float32 | None
    steps: tuple[Step, ...]
    advance: Advance
    prediction_type: PredictionType
    guidance: BlockGuidance
    batch: int


def sample_case(network: Denoise, case: Case) -> tuple[Float32, Float32]:
    """Sample a case. Returns the latents [n, C, h, w] before the middle step and at the end."""
    middle = case.steps[len(case.steps) // 2].timestep
    halfway, latents = np.empty_like(case.noise[0]), np.empty_like(case.noise[0])
    for rows, own in groups(case.noise.shape[1], case.batch):
        kept = rows[:own]

        def watched(noisy: Float32, timestep: int, prompts: Float32, kept: Sequence[int] = kept) -> Float32:
            if timestep == middle:
                halfway[kept] = noisy[: len(kept)]
            return network(noisy, timestep, prompts)

        out = sample(
            watched,
            case.noise[0, rows],
            case.prompts[rows],
            case.empty,
            None if case.prototypes is None else case.prototypes[rows],
            case.steps,
            case.advance,
            case.prediction_type,
            case.guidance,
            case.noise[1:, rows] if len(case.noise) > 1 else None,
        )
        latents[kept] = out[:own]
    return halfway, latents


Decode = Callable[[Float32], Images]
"""Scaled latents [n, C, h, w] → uint8 [n, H, W, N], or the part of each image that is wanted."""


def bundle_networks(
    bundle: Bundle, provider: Provider, threads: int | None = None, part: Callable[[Images], Images] = lambda all_: all_
) -> tuple[Denoise, Decode]:
    """UNet and VAE decoder of a bundle on one provider. NaN becomes mid grey. part: as in `bundle_decoder`."""
    unet = FewerRows(bundle.engine(UNET, provider, threads), UNET)
    return partial(denoise, unet), bundle_decoder(bundle, provider, threads, part)


def bundle_decoder(
    bundle: Bundle, provider: Provider, threads: int | None = None, part: Callable[[Images], Images] = lambda all_: all_
) -> Decode:
    """The VAE decoder alone.

    Args:
        part: what is kept of the images [n, H, W, N] of a call.
    """
    decoder = FewerRows(bundle.engine(DECODER, provider, threads), DECODER)
    batch = bundle.manifest.sampler.compute_batch

    def decode_all(latents: Float32) -> Images:
        images = []
        for rows, own in groups(len(latents), batch):
            output = decode(decoder, latents[rows], bundle.manifest)[:own]
            images.append(np.concatenate([part(to_uint8(np.nan_to_num(row[None]))) for row in output]))
            del output  # before the next one comes
        return np.concatenate(images)

    return decode_all


# -- golden.safetensors: a few images that PyTorch made with this model, with their noise.


GOLDEN_NAME = "golden.safetensors"
MAX_STEPS = 1000
MAX_IMAGES = 16  # four times as many as `dpd export` writes
LARGEST_SIDE = 128  # pixels: the middle of larger images is kept, so that the file stays below 300 kB


@dataclass(frozen=True)
class Golden:
    """n images from the first prompt and prototype of their classes, with the noise of candidate 0 and index 0.

    Args:
        labels: class of each image.
        noise: [1 + draws, n, C, h, w] float32 with values that float16 can hold.
        halfway, latents: [n, C, h, w], before the middle step and at the end.
        images: uint8 [n, s, s, 3], s ≤ LARGEST_SIDE.
    """

    labels: tuple[int, ...]
    noise: Float32
    halfway: Float32
    latents: Float32
    images: Pixels
    seed: int
    solver: str
    steps: int

    def to_bytes(self) -> bytes:
        tensors = {name: getattr(self, name).astype(np.float16) for name in ("noise", "halfway", "latents")}
        tensors |= {"images": np.ascontiguousarray(self.images), "labels": np.array(self.labels, np.int64)}
        return _in_order(save(tensors, {"seed": str(self.seed), "solver": self.solver, "steps": str(self.steps)}))


@dataclass(frozen=True)
class GoldenCodes:
    """PyTorch's images of the first codes of n classes, not turned: what a codes-only bundle can make again.

    Args:
        labels: class of each image.
        images: uint8 [n, s, s, 3], s ≤ LARGEST_SIDE.
    """

    labels: tuple[int, ...]
    images: Pixels

    def to_bytes(self) -> bytes:
        return save({"images": np.ascontiguousarray(self.images), "labels": np.array(self.labels, np.int64)})


def golden_decodes(bundle: Bundle) -> tuple[Float32, Pixels] | None:
    """Latents [n, C, h, w] and PyTorch's images of them, to compare a decoder with; None if the bundle has none.

    Raises:
        BundleError: the file is damaged or does not fit the bundle.
    """
    if not bundle.manifest.codes_only:
        golden = golden_of(bundle)
        return None if golden is None else (golden.latents, golden.images)
    raw = bundle.files.get(GOLDEN_NAME)
    if raw is None:
        return None
    tensors = read_tensors(raw, GOLDEN_NAME)
    try:
        codes = GoldenCodes(_labels(tensors["labels"]), tensors["images"])
    except (KeyError, ValueError) as error:
        raise BundleError(f"{GOLDEN_NAME} cannot be read ({error}); export the bundle again") from error
    if not _fit(codes.labels, codes.images, bundle):
        raise BundleError(f"{GOLDEN_NAME} does not fit this bundle; export the bundle again")
    return np.stack([bundle.classes[label].prototypes[0] for label in codes.labels]), codes.images


def middle(images: Pixels) -> Pixels:
    """The middle of images [n, H, W, 3], as it is stored."""
    tops = [max(0, (side - LARGEST_SIDE) // 2) for side in images.shape[1:3]]
    return images[:, tops[0] : tops[0] + LARGEST_SIDE, tops[1] : tops[1] + LARGEST_SIDE]


def golden_of(bundle: Bundle) -> Golden | None:
    """Read the bundle's golden images; None for an old bundle without any.

    Raises:
        BundleError: the file is damaged or does not fit the bundle.
    """
    raw = bundle.files.get(GOLDEN_NAME)
    if raw is None:
        return None
    tensors = read_tensors(raw, GOLDEN_NAME)
    try:
        facts = _header(raw)["__metadata__"]
        golden = Golden(
            labels=_labels(tensors["labels"]),
            **{name: _widened(name, tensors[name]) for name in ("noise", "halfway", "latents")},
            images=tensors["images"],
            seed=int(facts["seed"]),
            solver=facts["solver"],
            steps=int(facts["steps"]),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise BundleError(f"{GOLDEN_NAME} cannot be read ({error}); export the bundle again") from error
    _check(golden, bundle)
    return golden


def _labels(tensor: Array) -> tuple[int, ...]:
    """The labels, whatever type the file stores them in: one that is no whole number has no meaning."""
    if tensor.dtype.kind not in "iu" or tensor.ndim != 1:
        raise ValueError(f"labels are {tensor.dtype} {list(tensor.shape)}, not a list of whole numbers")
    if len(tensor) > MAX_IMAGES:
        raise ValueError(f"{len(tensor)} images, more than {MAX_IMAGES}")
    return tuple(tensor.tolist())


def _widened(name: str, tensor: Array) -> Float32:
    """As float32. A type of fewer bits would take more memory than was computed from the size of the file."""
    if tensor.dtype not in (np.float16, np.float32):
        raise ValueError(f"{name} is {tensor.dtype}, not float16 or float32")
    return tensor.astype(np.float32, copy=False)


def _header(raw: bytes) -> dict[str, Any]:
    """The header of a safetensors file in memory, which `load` does not return."""
    length = int.from_bytes(raw[:8], "little")
    content: dict[str, Any] = parse_json(raw[8 : 8 + length], GOLDEN_NAME)
    return content


def _in_order(raw: bytes) -> bytes:
    """The same file with sorted metadata. safetensors writes its entries in a random order."""
    header, length = _header(raw), int.from_bytes(raw[:8], "little")
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    return raw[:8] + text.ljust(length) + raw[8 + length :]


def _fit(labels: tuple[int, ...], images: Pixels, bundle: Bundle) -> bool:
    """Whether golden images and their labels fit the bundle."""
    good = len(labels) > 0 and images.dtype == np.uint8 and images.ndim == 4
    height, width, channels = bundle.manifest.image_shape
    good = good and images.shape == (len(labels), min(height, LARGEST_SIDE), min(width, LARGEST_SIDE), channels)
    return good and all(0 <= label < len(bundle.classes) for label in labels)


def _check(golden: Golden, bundle: Bundle) -> None:
    shape, count = bundle.manifest.latent_shape, len(golden.labels)
    good = _fit(golden.labels, golden.images, bundle)
    good = good and golden.noise.ndim == 5 and golden.noise.shape[1:] == (count, *shape)
    good = good and golden.halfway.shape == golden.latents.shape == (count, *shape)
    good = good and golden.solver in SOLVERS and 0 <= golden.seed < 2**64
    good = good and all(np.isfinite(x).all() for x in (golden.noise, golden.halfway, golden.latents))
    if not good:
        raise BundleError(f"{GOLDEN_NAME} does not fit this bundle; export the bundle again")


def golden_case(golden: Golden, bundle: Bundle) -> Case:
    """How the golden images are sampled from the bundle.

    Raises:
        BundleError: the schedule does not allow this number of steps.
    """
    scenes = [bundle.classes[label] for label in golden.labels]
    make_steps, advance = SOLVERS[golden.solver]
    try:
        if golden.steps > MAX_STEPS:
            raise ValueError(f"steps is {golden.steps}, more than {MAX_STEPS}")
        steps = tuple(make_steps(bundle.schedule, golden.steps))
        if noise_draws(steps) != len(golden.noise) - 1:
            raise ValueError(f"{len(golden.noise) - 1} draws of noise for steps that need {noise_draws(steps)}")
    except ValueError as error:
        raise BundleError(f"{GOLDEN_NAME}: {error}; export the bundle again") from error
    steered = all(len(scene.prototypes) for scene in scenes)
    return Case(
        noise=golden.noise,
        prompts=bundle.prompt_embeddings[[scene.prompt_rows[0] for scene in scenes]],
        empty=bundle.empty_embedding,
        prototypes=np.stack([scene.prototypes[0] for scene in scenes]) if steered else None,
        steps=steps,
        advance=advance,
        prediction_type=bundle.schedule.prediction_type,
        guidance=bundle.manifest.sampler.first_sampled(),
        batch=bundle.manifest.sampler.compute_batch,
    )


# -- The golden replay: does this machine make the same images as PyTorch (docs/reference/bundle-format.md)?


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


# -- The golden gate: does a provider make PyTorch's images on this machine (docs/guides/generate.md)?
#
# A provider is asked once. The answer is kept in the user's cache until the bundle, a package, the driver or the device
# is another one. It protects from wrong kernels and drivers, not from a hostile bundle, which brings its own images.


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
    _refuse_if_different(bundle, provider, verdict)
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
        _refuse_if_different(bundle, provider, verdict)
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


def _refuse_if_different(bundle: Bundle, provider: Provider, verdict: GoldenVerdict) -> None:
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
