"""How images are sampled: settings of a block, those a bundle brings by default, and those that suit a class table."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dpd_runtime.sampling.schedule import Schedule

BLOCK = 10
"""Images of one class that are computed together (DESIGN §8)."""


@dataclass(frozen=True)
class BlockGuidance:
    """Guidance of the blocks from `from_block` on (block b holds images 10 b … 10 b + 9 of a class).

    Args:
        guidance_scale: classifier-free guidance w ≥ 1; 1 runs no unconditional pass.
        guidance_from, guidance_until: shares of the steps, from noise on, between which it acts (Kynkäänniemi et al.
            2024); a step outside costs one evaluation instead of two.
        prototype_scale: g in 0 … 1 of the pull of ẑ0 towards the prototype; 1 puts the prototype in its place.
        prototype_until: share of the steps, from noise on, in which that pull acts. With g = 1 to the end the image is
            the decoded prototype; with g = 1 to a share s it is the prototype noised and denoised again, at a strength
            of 1 − s (SDEdit, Meng et al. 2022).
    """

    from_block: int = 0
    guidance_scale: float = 1.0
    prototype_scale: float = 0.0
    prototype_until: float = 0.5
    guidance_from: float = 0.0
    guidance_until: float = 1.0

    def guides(self, number: int, count: int) -> bool:
        """Whether step `number` (from 0) of `count` has classifier-free guidance."""
        return self.guidance_scale > 1 and self.guidance_from * count <= number < self.guidance_until * count

    def pulls(self, number: int, count: int) -> bool:
        """Whether step `number` of `count` pulls ẑ0 towards the prototype."""
        return self.prototype_scale > 0 and number < self.prototype_until * count

    def replaces(self, number: int, count: int) -> bool:
        """Whether step `number` of `count` takes the prototype for ẑ0, whatever the network would say."""
        return self.prototype_scale == 1 and self.pulls(number, count)

    @property
    def decodes(self) -> bool:
        """Whether the images are the decoded prototypes."""
        return self.prototype_scale == self.prototype_until == 1

    @property
    def begins_at_prototypes(self) -> bool:
        """Whether the images are whole prototypes, decoded as they are or noised and denoised again."""
        return self.prototype_scale == 1 and self.prototype_until > 0


@dataclass(frozen=True)
class Sampler:
    """How a block is computed.

    Args:
        compute_batch: latents in one UNet call; fixed; where memory is short, a call is split.
        timestep_power: of trailing timesteps (`dpd_runtime.sampling.schedule.Schedule`); 1 spaces them evenly.
        mean_noise_gain: gain on the mean of each channel of the start noise (`dpd_runtime.sampling.noise.widen_mean`).
    """

    solver: str = "dpm++2m"
    steps: int = 20
    candidates: int = 3
    compute_batch: int = 10
    guidance: tuple[BlockGuidance, ...] = (BlockGuidance(),)
    timestep_power: float = 1.0
    mean_noise_gain: float = 1.0

    def guidance_for(self, block: int) -> BlockGuidance:
        return [g for g in self.guidance if g.from_block <= block][-1]

    def evaluations_per_latent(self, block: int) -> int:
        """UNet evaluations for each candidate, CFG counting two; a kept image costs `candidates` times as many.

        As for whole prototypes: one that is a block mean leaves something to ask for in every step.
        """
        guidance = self.guidance_for(block)
        asked = [number for number in range(self.steps) if not guidance.replaces(number, self.steps)]
        return len(asked) + sum(guidance.guides(number, self.steps) for number in asked)

    def first_drawn(self) -> BlockGuidance:
        """Guidance of the first blocks whose images are drawn from noise alone; of the last where none are."""
        return next((g for g in self.guidance if not g.begins_at_prototypes), self.guidance[-1])

    def drawn(self) -> "Sampler":
        """The same with every image drawn from noise: blocks that begin at prototypes are as the first others are."""
        if not any(g.begins_at_prototypes for g in self.guidance):
            return self
        first = self.first_drawn()
        scale = 0.0 if first.begins_at_prototypes else first.prototype_scale
        begun = replace(first, from_block=0, prototype_scale=scale)
        later = [g for g in self.guidance if g.from_block > first.from_block and not g.begins_at_prototypes]
        return replace(self, guidance=(begun, *later))


def sampler_schedule(schedule: Schedule, sampler: Sampler) -> Schedule:
    """The schedule with the spacing of timesteps that `sampler` asks for."""
    return replace(schedule, timestep_power=sampler.timestep_power)


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
