"""What an export is asked for, and the sampler that a bundle brings where nobody asked for another."""

from dataclasses import dataclass, replace

from dpd_runtime.manifest import BlockGuidance, Sampler

DEFAULT_SAMPLER = Sampler(
    solver="dpm++2m",
    steps=15,
    candidates=3,
    guidance=(
        BlockGuidance(from_block=0, guidance_scale=1.5, prototype_scale=0.1, prototype_until=0.5),
        BlockGuidance(from_block=1, guidance_scale=1.25, prototype_scale=0.1, prototype_until=0.5),
    ),
)
POSITIONS_IN_A_CALL = 10 * 32 * 32  # of latents: attention over 64 × 64 of them takes gigabytes for a batch of 10


@dataclass(frozen=True, kw_only=True)
class Options:
    """As `export_run` has them."""

    precision: str
    name: str | None
    data_licence: str
    base_licence: str | None
    sampler: Sampler | None
    vae_encoder: bool
    dynamic_size: bool
    allow_real_prototypes: bool
    largest_file: int

    def of_the_card(self) -> dict[str, object]:
        """Those which the command in the model card repeats, beside what the manifest knows."""
        names = ("base_licence", "vae_encoder", "dynamic_size", "allow_real_prototypes")
        return {name: getattr(self, name) for name in names}


def fitted(sampler: Sampler, side: int) -> Sampler:
    """Fewer latents in a call where their `side` is large."""
    return replace(sampler, compute_batch=max(1, min(sampler.compute_batch, POSITIONS_IN_A_CALL // side**2)))
