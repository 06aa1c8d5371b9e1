"""Compute one block. Nothing here depends on files, on other blocks or on how many images are requested."""

import logging
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np

from dpd_runtime.annotations import Float32, Images
from dpd_runtime.bundle.bundle import Bundle
from dpd_runtime.bundle.manifest import check_noise
from dpd_runtime.errors import DegenerateImageError, InputError
from dpd_runtime.generation.block import Block, Image
from dpd_runtime.generation.decode import decode_latents, decode_prototypes, is_decoded
from dpd_runtime.generation.networks import LATENT_CLASSIFIER, UNET, Networks, denoise, groups, latent_logits
from dpd_runtime.sampling.noise import image_noise
from dpd_runtime.sampling.sample import margins, noise_draws, sample
from dpd_runtime.sampling.sampler import BLOCK, Sampler, sampler_schedule
from dpd_runtime.sampling.solvers import SOLVERS, Step

_log = logging.getLogger(__name__)


class BlockComputer:
    """Computes blocks, with calls of a fixed batch."""

    def __init__(
        self,
        bundle: Bundle,
        sampler: Sampler,
        networks: Networks,
        seed: int,
        in_float32: Callable[[], Networks] | None = None,
    ) -> None:
        """Args:
            in_float32: loads networks that compute in float32, for blocks that `networks` break in half precision;
                None if `networks` compute in float32 themselves.

        Raises:
            InputError: the schedule does not allow this number of steps.
        """
        make_steps, self._advance = SOLVERS[sampler.solver]
        try:
            self._steps: Sequence[Step] = make_steps(sampler_schedule(bundle.schedule, sampler), sampler.steps)
            check_noise(bundle.manifest.latent_shape, sampler.candidates, noise_draws(self._steps))
        except ValueError as error:
            raise InputError(f"--steps {sampler.steps} with {sampler.solver}: {error}") from error
        self._bundle, self._sampler, self.networks, self._seed = bundle, sampler, networks, seed
        self._in_float32 = in_float32
        self._again: BlockComputer | None = None

    def noise(self, block: Block) -> Float32 | None:
        """[1 + draws, candidates · 10, C, h, w], candidate-major: the start noise, then what a stochastic solver adds.
        None for a decoded block.

        The noise that is added continues the stream of the image's start noise (docs/reference/bundle-format.md).
        """
        shape, gain = self._bundle.manifest.latent_shape, self._sampler.mean_noise_gain
        if is_decoded(block, self._sampler, shape):
            return None
        draws, name = noise_draws(self._steps), block.scene_class.name
        noise = np.empty((1 + draws, self._sampler.candidates * BLOCK, *shape), np.float32)
        for row, (candidate, index) in enumerate(product(range(self._sampler.candidates), block.indices)):
            noise[:, row] = image_noise(self._seed, name, index, candidate, shape, draws, gain)
        return noise

    def images(self, block: Block, noise: Float32 | None) -> list[Image]:
        """The block's ten images: decoded prototypes, or for each index the sampled candidate with the best margin.

        Args:
            noise: what `noise` returns for this block.

        Raises:
            DegenerateImageError: NaN, infinite or constant numbers, in float32 too.
        """
        try:
            return self._images(block, noise)
        except DegenerateImageError as error:
            if self._in_float32 is None:
                raise
            _log.warning("%s; the block is computed again in float32", error)
        if self._again is None:
            self._again = BlockComputer(self._bundle, self._sampler, self._in_float32(), self._seed)
        return self._again.images(block, noise)

    def _images(self, block: Block, noise: Float32 | None) -> list[Image]:
        decoder, batch = self.networks.decoder, self._sampler.compute_batch
        if noise is None:
            pixels = decode_prototypes(block, self._bundle, decoder, batch, self._seed)
            return self._finished(block, pixels, [(0, None)] * BLOCK)
        latents, scores = self._candidates(block, noise)
        table = scores.reshape(self._sampler.candidates, BLOCK)
        chosen, columns = table.argmax(axis=0), np.arange(BLOCK)
        pixels = decode_latents(latents[chosen * BLOCK + columns], block, self._bundle, decoder, batch, self._seed)
        best = zip(chosen.tolist(), table[chosen, columns].tolist(), strict=True)
        return self._finished(block, pixels, list(best))

    def _finished(self, block: Block, pixels: Images, chosen: Sequence[tuple[int, float | None]]) -> list[Image]:
        """The images of a block, unless one is constant. chosen: candidate and margin of each."""
        scene, images = block.scene_class, []
        for index, view, (candidate, margin) in zip(block.indices, pixels, chosen, strict=True):
            if view.min() == view.max():
                raise block.degenerate(self._seed, index, "the image is constant")
            prototype = index % len(scene.prototypes) if len(scene.prototypes) else -1
            prompt = self._bundle.prompt(scene, index)
            images.append(Image(view, scene.name, scene.label, index, prototype, prompt, candidate, margin))
        return images

    def _candidates(self, block: Block, noise: Float32) -> tuple[Float32, Float32]:
        """Latents [candidates · 10, C, h, w] and their margins."""
        bundle, scene = self._bundle, block.scene_class
        guidance = self._sampler.guidance_for(block.number)
        indices = [*block.indices] * self._sampler.candidates
        prompts = np.array([scene.prompt_rows[i % len(scene.prompt_rows)] for i in indices])
        prototypes = None
        if len(scene.prototypes):
            prototypes = scene.prototypes[[i % len(scene.prototypes) for i in indices]]
        latents, scores = np.empty(noise.shape[1:], np.float32), np.empty(len(indices), np.float32)
        for rows, _ in groups(len(indices), self._sampler.compute_batch):

            def checked(noisy: Float32, timestep: int, context: Float32, rows: list[int] = rows) -> Float32:
                output = denoise(self.networks.unet, noisy, timestep, context)
                return block.check_finite(output, self._seed, rows, UNET)

            out = sample(
                checked,
                noise[0, rows],
                bundle.prompt_embeddings[prompts[rows]],
                bundle.empty_embedding,
                None if prototypes is None else prototypes[rows],
                self._steps,
                self._advance,
                bundle.schedule.prediction_type,
                guidance,
                noise[1:, rows],
            )
            latents[rows] = out
            logits = latent_logits(self.networks.latent_classifier, out, len(bundle.classes))
            scores[rows] = margins(block.check_finite(logits, self._seed, rows, LATENT_CLASSIFIER), scene.label)
        return latents, scores
