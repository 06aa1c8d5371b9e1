"""The networks of a bundle or a run, and the computations that an audit needs from them."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpd_runtime.annotations import Float32, Images, Progress
from dpd_runtime.bundle import Bundle
from dpd_runtime.engines import Engine
from dpd_runtime.generation import BlockComputer
from dpd_runtime.networks import Block, Networks, decode, denoise
from dpd_runtime.sampler import BLOCK, Sampler
from dpd_runtime.sampling import to_uint8
from dpd_train.prototypes import at_full_size

Labels = NDArray[np.int64]
CALL = 50  # latents in one call of a network


@dataclass(frozen=True)
class Model:
    """The networks of a bundle or a run.

    Args:
        bundle: for a run, the bundle that an export would write, without files.
        networks: of a codes-only bundle, the decoder alone can be called.
        teacher: images [B, C, H, W] in [-1, 1] → logits; None if there is none.
    """

    bundle: Bundle
    networks: Networks
    teacher: Engine | None

    @property
    def codes_only(self) -> bool:
        """Whether what leaves the site are codes and their decoder, and no denoiser or classifier."""
        return self.bundle.manifest.codes_only

    def decode(self, latents: Float32) -> Images:
        """Scaled latents [n, C, h, w] → uint8 [n, H, W, C]."""
        decoder, manifest = self.networks.decoder, self.bundle.manifest
        parts = (latents[i : i + CALL] for i in range(0, len(latents), CALL))
        return np.concatenate([to_uint8(decode(decoder, part, manifest)) for part in parts])

    def denoise(self, latents: Float32, timestep: int, prompts: Float32) -> Float32:
        """As `dpd_runtime.sampling.Denoise`, in calls of CALL."""
        calls = [slice(i, i + CALL) for i in range(0, len(latents), CALL)]
        return np.concatenate([denoise(self.networks.unet, latents[c], timestep, prompts[c]) for c in calls])

    def class_prompts(self) -> Float32:
        """Return the embedding [classes, L, D] of each class's first prompt."""
        return self.bundle.prompt_embeddings[[c.prompt_rows[0] for c in self.bundle.classes]]

    def generate(self, images: int, seed: int, progress: Progress) -> tuple[Images, Labels]:
        """Generate at least `images` images as a site would, with equal numbers of each class.

        The blocks take turns over the sampler's guidances, so that every guidance is audited. A codes-only bundle may
        make fewer images.
        """
        each = -(-images // len(self.bundle.classes))
        each = min(each, self.bundle.largest_ipc or each)
        sampler = self.bundle.manifest.sampler
        numbers = blocks_of_each_way(sampler, -(-each // BLOCK))
        blocks = [Block(c, number) for c in self.bundle.classes for number in numbers]
        computer = BlockComputer(self.bundle, sampler, self.networks, seed)
        made = []
        for done, block in enumerate(blocks):
            left = each - BLOCK * (done % len(numbers))
            made += computer.compute(block)[:left]
            progress(done + 1, len(blocks))
        labels = np.array([image.label for image in made], np.int64)
        return np.stack([image.pixels for image in made]), labels

    def prototypes(self) -> tuple[Float32, Labels]:
        """Return all prototypes as latents [K, C, h, w] (block means are repeated) and their classes."""
        side = self.bundle.manifest.latent_shape[1]
        latents = [at_full_size(c.prototypes, side) for c in self.bundle.classes]
        labels = [np.full(len(p), c.label, np.int64) for p, c in zip(latents, self.bundle.classes, strict=True)]
        return np.concatenate(latents), np.concatenate(labels)


def blocks_of_each_way(sampler: Sampler, count: int) -> list[int]:
    """Return the numbers of `count` blocks: the first block of each guidance, then the second of each, and so on."""
    begins = [guidance.from_block for guidance in sampler.guidance]
    ends = [*begins[1:], math.inf]
    numbers: list[int] = []
    for turn in range(count):
        numbers += [b + turn for b, end in zip(begins, ends, strict=True) if b + turn < end]
        if len(numbers) >= count:
            break
    return numbers[:count]
