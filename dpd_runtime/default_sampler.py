"""The sampler that a bundle brings where nobody asked for another, and with which a run is judged before its export."""

from dataclasses import replace

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
POSITIONS_IN_A_CALL = 10 * 32 * 32  # of latents: attention over 64 × 64 of them takes gigabytes for a batch of 10


def fitted(sampler: Sampler, side: int) -> Sampler:
    """Fewer latents in a call where their `side` is large."""
    return replace(sampler, compute_batch=max(1, min(sampler.compute_batch, POSITIONS_IN_A_CALL // side**2)))
