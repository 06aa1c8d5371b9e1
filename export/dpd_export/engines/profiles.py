"""The graphs that become engines, and the shapes in which `dpd generate` calls them (DESIGN §8)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dpd_runtime.bundle.bundle import Bundle
from dpd_runtime.bundle.manifest import Manifest
from dpd_runtime.errors import BundleError, InputError
from dpd_runtime.generation.teacher import symmetries

PARTS = ("unet", "vae_decoder", "latent_classifier", "classifier")
DEFAULT_PARTS = PARTS[:3]
"""What every `dpd generate` calls. The classifier is for `--soft-labels` only."""
HEADROOM = 2
"""Largest batch of a dynamic engine, as a multiple of the largest batch of the bundle's own sampler."""


@dataclass(frozen=True)
class Profile:
    """Smallest, usual and largest batch; if all are equal, the engine is static."""

    low: int
    usual: int
    high: int

    @property
    def static(self) -> bool:
        return self.low == self.high

    @property
    def name(self) -> str:
        return f"batch{self.low}" if self.static else f"batch{self.low}to{self.high}"


def batches_of(part: str, manifest: Manifest) -> list[int]:
    """Batches in which `dpd generate` calls this part, largest first.

    A step with classifier-free guidance passes both halves in one call, with twice `compute_batch` rows. Candidates
    change the number of calls, not the batch. The classifier gets the symmetries of one image (soft labels).
    """
    sampler = manifest.sampler
    if part == "classifier":
        return [len(symmetries(np.zeros(manifest.image_shape, np.uint8)))]
    if part != "unet":
        return [sampler.compute_batch]
    guided = {g.guides(step, sampler.steps) for g in sampler.guidance for step in range(sampler.steps)}
    return sorted((sampler.compute_batch * (2 if twice else 1) for twice in guided), reverse=True)


def profiles_of(part: str, manifest: Manifest) -> list[Profile]:
    """A static engine for each batch that occurs, then a dynamic one that covers them all."""
    batches = batches_of(part, manifest)
    return [*(Profile(n, n, n) for n in batches), Profile(1, batches[0], HEADROOM * batches[0])]


def row_shapes(bundle: Bundle) -> dict[str, tuple[int, ...]]:
    """Shape of one row of each input, by the exporter's names."""
    latents, (height, width, channels) = bundle.manifest.latent_shape, bundle.manifest.image_shape
    return {
        "sample": latents,
        "latent_sample": latents,
        "latents": latents,
        "encoder_hidden_states": bundle.empty_embedding.shape,
        "images": (channels, height, width),
    }


def full_shape(
    name: str, declared: tuple[int, ...], batch: int, rows: Mapping[str, tuple[int, ...]]
) -> tuple[int, ...]:
    """`declared` with its open dimensions (−1) filled in: the batch first, then the sizes of `rows`.

    Raises:
        BundleError: the graph's input does not have the shape that the bundle's tables say.
    """
    if not declared:
        return ()
    wanted = (batch, *rows.get(name, declared[1:]))
    fits = len(wanted) == len(declared) and all(d in (-1, w) for d, w in zip(declared, wanted, strict=True))
    if not fits or min(wanted) < 1:
        raise BundleError(f"input {name} has shape {declared}, the bundle's tables say {wanted}; export it again")
    return wanted


def check_parts(names: tuple[str, ...] | None, files: Mapping[str, bytes]) -> tuple[str, ...]:
    """The parts without repetitions; for None those of DEFAULT_PARTS that the bundle holds.

    Raises:
        InputError: a part is unknown or not in the bundle.
    """
    there = [part for part in PARTS if f"{part}/model.onnx" in files]
    if names is None:
        return tuple(part for part in DEFAULT_PARTS if part in there)
    for name in names:
        if name not in there:
            raise InputError(
                f"part {name!r} cannot become an engine; parts of this bundle that can: {', '.join(there)}"
            )
    return tuple(dict.fromkeys(names))
