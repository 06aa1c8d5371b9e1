"""The shapes in which a bundle's graphs are called, for providers that compile for a range of shapes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from dpd_runtime.bundle.manifest import Manifest
from dpd_runtime.engines.execution_providers import ShapeRange
from dpd_runtime.engines.record import Shape

INPUTS = {
    "unet": ("sample", "encoder_hidden_states"),
    "vae_decoder": ("latent_sample",),
    "latent_classifier": ("latents",),
    "classifier": ("images",),
}
"""The inputs with a batch axis of each part that a provider may compile."""
SYMMETRIES = 8
"""Rows of the classifier's call for soft labels: the symmetries of one image."""
HEADROOM = 2
"""Largest batch of a profile, as a multiple of the largest that `dpd generate` uses."""


@dataclass(frozen=True)
class Profile:
    """Smallest, usual and largest batch."""

    low: int
    usual: int
    high: int


def largest_batch(part: str, manifest: Manifest) -> int:
    """The largest batch in which `dpd generate` calls this part.

    A step with classifier-free guidance passes both halves in one call, with twice `compute_batch` rows. Candidates
    change the number of calls, not the batch.
    """
    sampler = manifest.sampler
    if part == "classifier":
        return SYMMETRIES
    guided = any(g.guides(step, sampler.steps) for g in sampler.guidance for step in range(sampler.steps))
    return sampler.compute_batch * (2 if part == "unet" and guided else 1)


def profile_of(part: str, manifest: Manifest) -> Profile:
    """One profile for all calls of a part: from batch 1, as when memory is short, to twice the largest."""
    usual = largest_batch(part, manifest)
    return Profile(1, usual, HEADROOM * usual)


def row_shapes(manifest: Manifest, embedding: Shape) -> dict[str, Shape]:
    """The shape of one row of each input, by the exporter's names.

    Args:
        embedding: (L, D), of one prompt.
    """
    latents, (height, width, channels) = manifest.latent_shape, manifest.image_shape
    return {
        "sample": latents,
        "latent_sample": latents,
        "latents": latents,
        "encoder_hidden_states": embedding,
        "images": (channels, height, width),
    }


def output_row(graph: str, manifest: Manifest, classes: int) -> Shape | None:
    """The shape of one row of a graph's output; None for a graph that `dpd generate` does not call."""
    height, width, channels = manifest.image_shape
    rows: dict[str, Shape] = {
        "unet": manifest.latent_shape,
        "vae_decoder": (channels, height, width),
        "latent_classifier": (classes,),
        "classifier": (classes,),
    }
    return rows.get(PurePosixPath(graph).parts[0])


def shape_ranges(graph: str, manifest: Manifest, embedding: Shape) -> Mapping[str, ShapeRange]:
    """The shapes of a graph's inputs; none for a graph that no provider compiles, such as the text encoder."""
    part = PurePosixPath(graph).parts[0]
    rows, profile = row_shapes(manifest, embedding), profile_of(part, manifest)
    return {
        name: ((profile.low, *rows[name]), (profile.usual, *rows[name]), (profile.high, *rows[name]))
        for name in INPUTS.get(part, ())
    }
