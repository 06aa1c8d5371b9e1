"""golden.safetensors: a few images that PyTorch made with this model, with their noise."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors.numpy import save

from dpd_runtime.annotations import Array, Float32, Pixels
from dpd_runtime.bundle.bundle import Bundle
from dpd_runtime.bundle.tensors import read_tensors
from dpd_runtime.errors import BundleError
from dpd_runtime.generation.cases import Case
from dpd_runtime.sampling.sample import noise_draws
from dpd_runtime.sampling.solvers import SOLVERS
from dpd_runtime.strict_json import parse_json

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
