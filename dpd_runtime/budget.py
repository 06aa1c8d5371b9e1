"""The memory that this process itself needs for a bundle's images. What its graphs need is another matter: theirs is
limited where they run (`dpd_runtime.engines`).

A few numbers of the manifest decide it, so that a file of 10 kB could ask for 70 GB. It is computed from them before a
graph is loaded, and bounded by a share of the memory.
"""

import math
from collections.abc import Sized
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from dpd_runtime.annotations import Float32
from dpd_runtime.errors import BundleError
from dpd_runtime.machine import usable_memory
from dpd_runtime.manifest import Manifest
from dpd_runtime.sampler import BLOCK, Sampler, sampler_schedule
from dpd_runtime.sampling import noise_draws
from dpd_runtime.solvers import SOLVERS, Schedule

SHARE = 1 / 16
"""Of the memory that this process may use: half a gigabyte of 8. Scenes of 64 bands with 256 pixels a side need 0.4 GB,
those of Stable Diffusion's size with 512 pixels 0.06 GB."""
LEAST = 64 * 10**6
"""Bytes that every bundle may have, as on a machine with 1 GB."""
FLOAT = 4  # bytes
GROUPS = 3
"""Groups of blocks whose images are there at once: one that is computed, and those of two blocks that are written."""
NOISES = 4
"""Noise of so many groups: of the one that is computed with a copy, and of two that are made ahead."""
CALL_VALUE = 7
"""Bytes for each value of a call's images: a float, half of it again where memory is short and the call is made in
parts, and the mark whether it is finite."""
IMAGE_VALUE = 16
"""Bytes for each value of the one image that is converted, turned, hashed, encoded or read back."""
NOISE_VALUE = 64
"""Bytes for each value of the one draw of noise that is made in float64."""
LATENTS_OF_CALL = 20
"""Arrays of a sampling call's latents: the input and output of a guided step, earlier ones, and what lies between."""
CONTEXTS = 4
"""Prompts of a call: those of its rows, twice as many for a guided step, and the part of a smaller call."""


class Opened(Protocol):
    """What is read of a `dpd_runtime.bundle.Bundle`, which asks before it opens a graph."""

    @property
    def path(self) -> Path: ...
    @property
    def manifest(self) -> Manifest: ...
    @property
    def schedule(self) -> Schedule: ...
    @property
    def classes(self) -> Sized: ...
    @property
    def empty_embedding(self) -> Float32: ...


def held_bytes(bundle: Opened, sampler: Sampler) -> int:
    """Bytes of arrays that this process holds while it makes and writes images, beyond the bundle's files.

    Raises:
        ValueError: the schedule does not allow this number of steps.
    """
    values, batch = math.prod(bundle.manifest.image_shape), sampler.compute_batch
    latents = FLOAT * math.prod(bundle.manifest.latent_shape)
    rows = BLOCK * max(1, batch // BLOCK)
    images = values * (GROUPS * rows + CALL_VALUE * batch + IMAGE_VALUE) + latents * (rows + 2 * batch)
    if bundle.manifest.codes_only:
        return images
    draws = _draws(bundle.schedule, sampler)
    candidates = BLOCK * sampler.candidates
    candidates *= max(1, batch // candidates)
    noise = latents * (1 + draws) * (NOISES * candidates + batch) + NOISE_VALUE * latents // FLOAT
    sampled = latents * (4 * candidates + LATENTS_OF_CALL * batch)
    context = FLOAT * bundle.empty_embedding.size * CONTEXTS * batch
    logits = FLOAT * len(bundle.classes) * 3 * batch
    return images + noise + sampled + context + logits


@lru_cache(maxsize=4)
def _draws(schedule: Schedule, sampler: Sampler) -> int:
    """How often a sampler adds noise; kept, as each graph that is opened asks for it."""
    make_steps, _ = SOLVERS[sampler.solver]
    return noise_draws(make_steps(sampler_schedule(schedule, sampler), sampler.steps))


def label_bytes(bundle: Opened, images: int) -> int:
    """Bytes for soft labels of so many images: the views of one image as floats, and all labels as they are packed."""
    values = math.prod(bundle.manifest.image_shape)
    return 48 * values + 4 * FLOAT * len(bundle.classes) * images


def check_budget(bundle: Opened, sampler: Sampler, beside: int = 0) -> None:
    """Check that this process needs no more than SHARE of the memory, or LEAST, for the bundle's images.

    Args:
        beside: bytes that the caller holds beside what `held_bytes` counts.

    Raises:
        BundleError: it needs more.
        ValueError: the schedule does not allow this number of steps.
    """
    needed = held_bytes(bundle, sampler) + beside
    if needed <= LEAST:
        return
    memory = usable_memory()
    if memory is None or needed <= SHARE * memory:
        return
    shape = " × ".join(map(str, bundle.manifest.image_shape))
    most = max(LEAST, SHARE * memory)
    raise BundleError(
        f"{bundle.path}: its images ({shape}, {sampler.compute_batch} in a call, {sampler.candidates} candidates) "
        f"would take {needed / 1e6:,.0f} MB of this process, more than the {most / 1e6:,.0f} MB that a bundle may have "
        f"here (1/{1 / SHARE:.0f} of the memory); use a machine with more memory"
    )
