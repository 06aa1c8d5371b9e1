"""Settings of the sampler, and kinds of prototypes."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from dpd_runtime.solvers import Schedule
from dpd_runtime.text import counted

# -- Settings of sampling: their form, the default of a bundle, and the ones for a given class table.


BLOCK = 10
"""Images of one class that are computed together (docs/guides/generate.md)."""


@dataclass(frozen=True)
class BlockGuidance:
    """Guidance of the blocks from number `from_block` on. Block b holds the images 10 b … 10 b + 9 of a class.

    Args:
        guidance_scale: weight w ≥ 1 of classifier-free guidance. With 1 there is no unconditional pass.
        guidance_from, guidance_until: the interval of the steps with that guidance, as shares 0 … 1 counted from the
            noise (Kynkäänniemi et al. 2024). A step outside costs one evaluation instead of two.
        prototype_scale: g in 0 … 1, the pull of ẑ0 towards the prototype. 1 replaces ẑ0 by the prototype.
        prototype_until: share of the steps, counted from the noise, in which that pull acts. With g = 1 and a share of
            1 the image is decoded from the prototype. With g = 1 and a share s < 1 it is re-noised: the prototype is
            noised and denoised again, with strength 1 − s (SDEdit, Meng et al. 2022).
        prototype_step: s ≥ 0 of the DPD paper, in place of g: its pull moves z_t, not ẑ0 (`guidance.moved`).
    """

    from_block: int = 0
    guidance_scale: float = 1.0
    prototype_scale: float = 0.0
    prototype_until: float = 0.5
    guidance_from: float = 0.0
    guidance_until: float = 1.0
    prototype_step: float = 0.0

    def guides(self, number: int, count: int) -> bool:
        """Whether step `number` (from 0) of `count` has classifier-free guidance."""
        first, end = (round(share * count, 6) for share in (self.guidance_from, self.guidance_until))  # 0.14 · 50 = 7
        return self.guidance_scale > 1 and first <= number < end

    def pulls(self, number: int, count: int) -> bool:
        """Whether step `number` of `count` pulls ẑ0 or z_t towards the prototype."""
        return max(self.prototype_scale, self.prototype_step) > 0 and number < round(self.prototype_until * count, 6)

    def replaces(self, number: int, count: int) -> bool:
        """Whether step `number` of `count` replaces ẑ0 by the prototype, without calling the network."""
        return self.prototype_scale == 1 and self.pulls(number, count)

    @property
    def pull(self) -> str:
        """The strength of the pull in words: g, or s with what it moves."""
        return f"{self.prototype_step:g} on z_t" if self.prototype_step else str(self.prototype_scale)

    @property
    def decodes(self) -> bool:
        """Whether the images are decoded prototypes."""
        return self.prototype_scale == self.prototype_until == 1

    @property
    def begins_at_prototypes(self) -> bool:
        """Whether the images are decoded or re-noised prototypes, not sampled."""
        return self.prototype_scale == 1 and self.prototype_until > 0

    @property
    def kind(self) -> str:
        """How the images are made if their class has whole prototypes: decoded, re-noised or sampled."""
        if self.decodes:
            return "decoded"
        return "re-noised" if self.begins_at_prototypes else "sampled"


@dataclass(frozen=True)
class Sampler:
    """Settings that determine how a block is computed.

    Args:
        compute_batch: latents in one call of a network; several blocks share a call if it is larger than a block. It is
            fixed; a call is split only if memory is short.
        timestep_power: spacing of the timesteps (`dpd_runtime.solvers.Schedule`). 1 spaces them evenly.
        mean_noise_gain: gain on the mean of each channel of the start noise (`dpd_runtime.sampling.widen_mean`).
    """

    solver: str = "dpm++2m"
    steps: int = 20
    candidates: int = 3
    compute_batch: int = 10
    guidance: tuple[BlockGuidance, ...] = (BlockGuidance(),)
    timestep_power: float = 1.0
    mean_noise_gain: float = 1.0

    def __repr__(self) -> str:
        kinds = ", ".join(f"{guidance.kind} from block {guidance.from_block} on" for guidance in self.guidance)
        steps, candidates = counted(self.steps, "step"), counted(self.candidates, "candidate")
        return f"Sampler({self.solver}, {steps}, {candidates}; images {kinds})"

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it, without a prototype_step of 0, so that such bundles and sets keep their bytes."""
        content = asdict(self)
        for entry in content["guidance"]:
            if not entry["prototype_step"]:
                del entry["prototype_step"]
        return content

    def guidance_for(self, block: int) -> BlockGuidance:
        return [g for g in self.guidance if g.from_block <= block][-1]

    def evaluations_per_latent(self, block: int) -> int:
        """UNet evaluations of one candidate; a guided step counts as two.

        A kept image costs `candidates` times as many. This assumes whole prototypes; with block means (kind `pooled`)
        every step calls the network.
        """
        guidance = self.guidance_for(block)
        asked = [number for number in range(self.steps) if not guidance.replaces(number, self.steps)]
        return len(asked) + sum(guidance.guides(number, self.steps) for number in asked)

    def first_sampled(self) -> BlockGuidance:
        """Guidance of the first sampled blocks; of the last blocks if no block is sampled."""
        return next((g for g in self.guidance if not g.begins_at_prototypes), self.guidance[-1])

    def sampled(self) -> "Sampler":
        """The same with all images sampled: decoded and re-noised blocks get the guidance of the first sampled ones."""
        if not any(g.begins_at_prototypes for g in self.guidance):
            return self
        first = self.first_sampled()
        scale = 0.0 if first.begins_at_prototypes else first.prototype_scale
        begun = replace(first, from_block=0, prototype_scale=scale)
        later = [g for g in self.guidance if g.from_block > first.from_block and not g.begins_at_prototypes]
        return replace(self, guidance=(begun, *later))


def sampler_schedule(schedule: Schedule, sampler: Sampler) -> Schedule:
    """The schedule with the sampler's spacing of timesteps."""
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
RENOISED_UNTIL = 0.8
"""`prototype_until` of re-noised images. Chosen on validation data at IPC 500."""
TIMES = 10
"""How often each prototype is used, once decoded and then re-noised, before images are sampled."""
POSITIONS_IN_A_CALL = 10 * 32 * 32  # of latents: attention over 64 × 64 positions needs gigabytes for a batch of 10


def suited_sampler(table: Mapping[str, Any]) -> Sampler:
    """The default sampler for the prototypes of a classes.json.

    Matched codes are decoded first, while every class has unused ones; then they are re-noised, each time with other
    noise; all later images are sampled. With other prototypes all images are sampled.
    """
    fewest = min(len(entry["prototype_counts"]) for entry in table["classes"])
    blocks = -(-fewest // BLOCK) if table["prototype_kind"] == "matched" else 0
    if not blocks:
        return DEFAULT_SAMPLER
    sampled = replace(DEFAULT_SAMPLER.guidance_for(TIMES * blocks), from_block=TIMES * blocks)
    renoised = replace(sampled, from_block=blocks, prototype_scale=1.0, prototype_until=RENOISED_UNTIL)
    return replace(DEFAULT_SAMPLER, guidance=(DECODED, renoised, sampled))


def decoding_sampler() -> Sampler:
    """The sampler of a codes-only bundle: every image is a decoded code."""
    return replace(DEFAULT_SAMPLER, candidates=1, guidance=(DECODED,))


def largest_ipc(codes: Collection[int]) -> int:
    """The largest IPC of a codes-only bundle whose classes have these numbers of codes.

    It ends where `suited_sampler` begins to re-noise: with the last block in which every class has unused codes. There
    a class with fewer codes than others shows its first ones again. No class shows all of its codes again.
    """
    return min(max(codes), BLOCK * -(-min(codes) // BLOCK))


def fitted(sampler: Sampler, side: int) -> Sampler:
    """Reduce the compute batch if the `side` of the latents is large."""
    return replace(sampler, compute_batch=max(1, min(sampler.compute_batch, POSITIONS_IN_A_CALL // side**2)))


# -- The kinds of prototypes and their shapes (docs/guides/train.md).


PrototypeKind = Literal["centroid", "pooled", "matched", "medoid", "none"]

PRIVATE_KINDS = {"centroid": "means of few real images' latents", "medoid": "latents of real images"}
"""Kinds whose prototypes should not leave the site, and what they are. The VAE decodes a medoid to its real image."""


def fits(kind: str, shape: tuple[int, ...], latent_shape: tuple[int, ...]) -> bool:
    """Whether prototypes of one class, of shape (K, C, h, w), fit latents of `latent_shape` (C, h, w).

    Prototypes of kind `pooled` are block means: both sides are smaller than those of the latents by one whole factor.
    """
    if kind != "pooled":
        return shape[1:] == latent_shape
    if len(shape) != 4 or shape[1] != latent_shape[0] or 0 in shape[1:]:
        return False
    (rows, columns), (height, width) = shape[2:], latent_shape[1:]
    return height % rows == 0 and width % columns == 0 and height // rows == width // columns
