"""golden.safetensors: a few images as PyTorch made them from this model, with what they began from (DESIGN §7)."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from dpd_runtime.annotations import Float32, Pixels
from dpd_runtime.bundle.bundle import Bundle
from dpd_runtime.errors import BundleError
from dpd_runtime.generation.cases import Case
from dpd_runtime.sampling.solvers import SOLVERS

GOLDEN_NAME = "golden.safetensors"
LARGEST_SIDE = 128  # pixels of an image that are kept, around its middle: the file stays below 300 kB


@dataclass(frozen=True)
class Golden:
    """n images of the first prompt and prototype of their classes, candidate 0 of index 0.

    Args:
        labels: class of each image.
        noise: [1 + draws, n, C, h, w] float32 values of float16, as everything that was sampled from.
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


def middle(images: Pixels) -> Pixels:
    """The part of [n, H, W, 3] that is kept."""
    tops = [max(0, (side - LARGEST_SIDE) // 2) for side in images.shape[1:3]]
    return images[:, tops[0] : tops[0] + LARGEST_SIDE, tops[1] : tops[1] + LARGEST_SIDE]


def golden_of(bundle: Bundle) -> Golden | None:
    """The bundle's, or None where it was exported before there were any.

    Raises:
        BundleError: it does not fit the bundle.
    """
    raw = bundle.files.get(GOLDEN_NAME)
    if raw is None:
        return None
    try:
        tensors, facts = load(raw), _header(raw)["__metadata__"]
        golden = Golden(
            labels=tuple(int(label) for label in tensors["labels"]),
            **{name: tensors[name].astype(np.float32) for name in ("noise", "halfway", "latents")},
            images=tensors["images"],
            seed=int(facts["seed"]),
            solver=facts["solver"],
            steps=int(facts["steps"]),
        )
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise BundleError(f"{GOLDEN_NAME} cannot be read ({error}); export the bundle again") from error
    _check(golden, bundle)
    return golden


def _header(raw: bytes) -> dict[str, Any]:
    """The header of a safetensors file, which `load` does not give from memory."""
    length = int.from_bytes(raw[:8], "little")
    content: dict[str, Any] = json.loads(raw[8 : 8 + length])
    return content


def _in_order(raw: bytes) -> bytes:
    """The same file, its metadata sorted: safetensors writes several entries in any order, other bytes each time."""
    header, length = _header(raw), int.from_bytes(raw[:8], "little")
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    return raw[:8] + text.ljust(length) + raw[8 + length :]


def _check(golden: Golden, bundle: Bundle) -> None:
    shape, count = bundle.manifest.latent_shape, len(golden.labels)
    good = count > 0 and golden.noise.ndim == 5 and golden.noise.shape[1:] == (count, *shape)
    good = good and golden.halfway.shape == golden.latents.shape == (count, *shape)
    good = good and golden.images.dtype == np.uint8 and golden.images.ndim == 4
    good = good and golden.images.shape == middle(np.zeros((count, *bundle.manifest.image_shape), np.uint8)).shape
    good = good and all(0 <= label < len(bundle.classes) for label in golden.labels) and golden.solver in SOLVERS
    good = good and all(np.isfinite(x).all() for x in (golden.noise, golden.halfway, golden.latents))
    if not good:
        raise BundleError(f"{GOLDEN_NAME} does not fit this bundle; export the bundle again")


def golden_case(golden: Golden, bundle: Bundle) -> Case:
    """How those images are sampled from the bundle.

    Raises:
        BundleError: a number of steps which the schedule does not allow.
    """
    scenes = [bundle.classes[label] for label in golden.labels]
    make_steps, advance = SOLVERS[golden.solver]
    try:
        steps = tuple(make_steps(bundle.schedule, golden.steps))
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
        guidance=bundle.manifest.sampler.first_drawn(),
        batch=bundle.manifest.sampler.compute_batch,
    )
