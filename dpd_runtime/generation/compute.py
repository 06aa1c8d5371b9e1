"""Compute blocks. Their images do not depend on files, on other blocks or on how many images are requested."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, islice, product

import numpy as np

from dpd_runtime.annotations import Float32, Images
from dpd_runtime.bundle.budget import check_budget
from dpd_runtime.bundle.bundle import Bundle
from dpd_runtime.bundle.manifest import check_noise
from dpd_runtime.errors import DegenerateImageError, InputError
from dpd_runtime.generation.block import Block, Image, Row, check_finite
from dpd_runtime.generation.decode import decode_latents, decode_prototypes, is_decoded, prototypes_of
from dpd_runtime.generation.networks import LATENT_CLASSIFIER, UNET, Networks, denoise, groups, latent_logits
from dpd_runtime.sampling.noise import image_noise
from dpd_runtime.sampling.sample import margins, noise_draws, sample
from dpd_runtime.sampling.sampler import BLOCK, BlockGuidance, Sampler, sampler_schedule
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
            BundleError: the images would take too much memory.
        """
        make_steps, self._advance = SOLVERS[sampler.solver]
        try:
            self._steps: Sequence[Step] = make_steps(sampler_schedule(bundle.schedule, sampler), sampler.steps)
            check_noise(bundle.manifest.latent_shape, sampler.candidates, noise_draws(self._steps))
        except ValueError as error:
            raise InputError(f"--steps {sampler.steps} with {sampler.solver}: {error}") from error
        check_budget(bundle, sampler)
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

    def together(self, blocks: Iterable[Block]) -> Iterator[list[Block]]:
        """Consecutive blocks that share calls: as many as fill one call, with the same guidance."""
        for (decoded, *_), alike in groupby(blocks, self._way):
            rows = BLOCK * (1 if decoded else self._sampler.candidates)
            while group := list(islice(alike, max(1, self._sampler.compute_batch // rows))):
                yield group

    def _way(self, block: Block) -> tuple[bool, bool, BlockGuidance]:
        """Whether a block is decoded, whether its class has prototypes, and its guidance."""
        decoded = is_decoded(block, self._sampler, self._bundle.manifest.latent_shape)
        return decoded, len(block.scene_class.prototypes) > 0, self._sampler.guidance_for(block.number)

    def compute(self, block: Block) -> list[Image]:
        """The ten images of one block, as `images` gives them."""
        return next(self.images([block], [self.noise(block)]))

    def images(self, blocks: Sequence[Block], noises: Sequence[Float32 | None]) -> Iterator[list[Image]]:
        """The ten images of each block: decoded prototypes, or for each index the candidate with the best margin.

        Args:
            blocks: some that `together` puts together. noises: what `noise` returns for each of them.

        Raises:
            DegenerateImageError: NaN, infinite or constant numbers, in float32 too.
        """
        try:
            found = self._images(blocks, noises)
        except DegenerateImageError as error:
            if len(blocks) > 1:  # alone, the good ones keep their bits, as all calls have one size
                for block, noise in zip(blocks, noises, strict=True):
                    yield from self.images([block], [noise])
                return
            if self._in_float32 is None:
                raise
            _log.warning("%s; the block is computed again in float32", error)
            if self._again is None:
                self._again = BlockComputer(self._bundle, self._sampler, self._in_float32(), self._seed)
            found = list(self._again.images(blocks, noises))
        yield from found

    def _images(self, blocks: Sequence[Block], noises: Sequence[Float32 | None]) -> list[list[Image]]:
        decoder, batch = self.networks.decoder, self._sampler.compute_batch
        if noises[0] is None:
            pixels = decode_prototypes(blocks, self._bundle, decoder, batch, self._seed)
            return self._finished(blocks, pixels, [(0, None)] * len(pixels))
        latents, scores = self._candidates(blocks, np.concatenate([n for n in noises if n is not None], axis=1))
        table = scores.reshape(len(blocks), self._sampler.candidates, BLOCK)
        chosen = table.argmax(axis=1)
        columns, of = np.arange(BLOCK), np.arange(len(blocks))[:, None]
        kept = latents.reshape(*table.shape, *latents.shape[1:])[of, chosen, columns]
        rows = [row for block in blocks for row in block.rows()]
        pixels = decode_latents(np.concatenate(kept), rows, self._bundle, decoder, batch, self._seed)
        best = zip(chosen.ravel().tolist(), table[of, chosen, columns].ravel().tolist(), strict=True)
        return self._finished(blocks, pixels, list(best))

    def _finished(
        self, blocks: Sequence[Block], pixels: Images, chosen: Sequence[tuple[int, float | None]]
    ) -> list[list[Image]]:
        """The images of each block, unless one is constant. chosen: candidate and margin of each."""
        images, rows = [], iter(zip(pixels, chosen, strict=True))
        for block in blocks:
            scene, of_block = block.scene_class, []
            for index, (view, (candidate, margin)) in zip(block.indices, rows, strict=False):
                if view.min() == view.max():
                    raise block.degenerate(self._seed, index, "the image is constant")
                prototype = index % len(scene.prototypes) if len(scene.prototypes) else -1
                prompt = self._bundle.prompt(scene, index)
                of_block.append(Image(view, scene.name, scene.label, index, prototype, prompt, candidate, margin))
            images.append(of_block)
        return images

    def _candidates(self, blocks: Sequence[Block], noise: Float32) -> tuple[Float32, Float32]:
        """Latents [blocks · candidates · 10, C, h, w] and their margins."""
        bundle, guidance = self._bundle, self._sampler.guidance_for(blocks[0].number)
        rows = [row for block in blocks for row in block.rows(self._sampler.candidates)]
        scenes = [(block.scene_class, index) for block, index in rows]
        prompts = np.array([scene.prompt_rows[index % len(scene.prompt_rows)] for scene, index in scenes])
        prototypes = prototypes_of(rows) if len(blocks[0].scene_class.prototypes) else None
        latents, scores = np.empty(noise.shape[1:], np.float32), np.empty(len(rows), np.float32)
        for call, _ in groups(len(rows), self._sampler.compute_batch):
            owners = [rows[place] for place in call]

            def checked(noisy: Float32, timestep: int, context: Float32, owners: list[Row] = owners) -> Float32:
                return check_finite(denoise(self.networks.unet, noisy, timestep, context), self._seed, owners, UNET)

            out = sample(
                checked,
                noise[0, call],
                bundle.prompt_embeddings[prompts[call]],
                bundle.empty_embedding,
                None if prototypes is None else prototypes[call],
                self._steps,
                self._advance,
                bundle.schedule.prediction_type,
                guidance,
                noise[1:, call],
            )
            latents[call] = out
            logits = latent_logits(self.networks.latent_classifier, out, len(bundle.classes))
            check_finite(logits, self._seed, owners, LATENT_CLASSIFIER)
            scores[call] = margins(logits, [block.scene_class.label for block, _ in owners])
        return latents, scores
