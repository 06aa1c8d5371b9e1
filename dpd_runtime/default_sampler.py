"""The sampler that a bundle brings where nobody asked for another, and with which a run is judged before its export."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dpd_runtime.blocks import BLOCK
from dpd_runtime.manifest import BlockGuidance, Sampler

DEFAULT_SAMPLER = Sampler(
    solver="unipc",
    steps=15,
    candidates=3,
    guidance=(
        BlockGuidance(from_block=0, guidance_scale=1.5, guidance_from=0.26, prototype_scale=0.1),
        BlockGuidance(from_block=1, guidance_scale=1.25, guidance_from=0.26, prototype_scale=0.1),
    ),
    timestep_power=2.0,
    mean_noise_gain=1.2,
)
DECODED = BlockGuidance(prototype_scale=1.0, prototype_until=1.0)
REFRESHED_UNTIL = 0.8
"""Share of the steps in which an image beyond the decoded ones stays at its prototype: then it is noised so far, and
denoised again. Chosen on validation at IPC 500 (docs/quality.md)."""
TIMES = 10
"""A class's prototypes are shown so often, once decoded, before images are drawn from noise alone."""
POSITIONS_IN_A_CALL = 10 * 32 * 32  # of latents: attention over 64 × 64 of them takes gigabytes for a batch of 10


def suited_sampler(table: Mapping[str, Any]) -> Sampler:
    """Ours for the prototypes of a classes.json.

    `matched` ones are decoded as they are, as long as every class has some left; then they come again, each time
    noised and denoised otherwise; the images after those are drawn as ever.
    """
    fewest = min(len(entry["prototype_counts"]) for entry in table["classes"])
    blocks = -(-fewest // BLOCK) if table["prototype_kind"] == "matched" else 0
    if not blocks:
        return DEFAULT_SAMPLER
    drawn = replace(DEFAULT_SAMPLER.guidance_for(TIMES * blocks), from_block=TIMES * blocks)
    refreshed = replace(drawn, from_block=blocks, prototype_scale=1.0, prototype_until=REFRESHED_UNTIL)
    return replace(DEFAULT_SAMPLER, guidance=(DECODED, refreshed, drawn))


def fitted(sampler: Sampler, side: int) -> Sampler:
    """Fewer latents in a call where their `side` is large."""
    return replace(sampler, compute_batch=max(1, min(sampler.compute_batch, POSITIONS_IN_A_CALL // side**2)))
