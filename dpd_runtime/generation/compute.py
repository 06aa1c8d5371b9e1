"""One block from its noise to its images. Nothing here knows of files, of other blocks or of how many images are
asked for.
"""

import logging
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from dpd_runtime.annotations import Float32
from dpd_runtime.bundle.bundle import Bundle
from dpd_runtime.bundle.manifest import check_noise
from dpd_runtime.engines.engine import run_to
from dpd_runtime.errors import DegenerateImageError, InputError
from dpd_runtime.generation.block import Block, Image
from dpd_runtime.generation.networks import DECODER, JUDGE, UNET, Networks
from dpd_runtime.sampling.noise import image_element, image_noise
from dpd_runtime.sampling.sample import margins, noise_draws, sample, seen_as, to_uint8
from dpd_runtime.sampling.sampler import BLOCK, Sampler, sampler_schedule
from dpd_runtime.sampling.solvers import SOLVERS, Step

_log = logging.getLogger(__name__)


class BlockComputer:
    """Computes blocks with loaded networks, in calls of a fixed batch, the last one filled up with its first row."""

    def __init__(
        self,
        bundle: Bundle,
        sampler: Sampler,
        networks: Networks,
        seed: int,
        in_float32: Callable[[], Networks] | None = None,
    ) -> None:
        """Args:
            in_float32: loads networks that compute in float32 where `networks` do not, for blocks that they break.

        Raises:
            InputError: a number of steps which the schedule does not allow.
        """
        make_steps, self._advance = SOLVERS[sampler.solver]
        try:
            self._steps: Sequence[Step] = make_steps(sampler_schedule(bundle.schedule, sampler), sampler.steps)
            check_noise(bundle.manifest.latent_shape, sampler.candidates, noise_draws(self._steps))
        except ValueError as error:
            raise InputError(f"--steps {sampler.steps} with {sampler.solver}: {error}") from error
        self._bundle, self._sampler, self._networks, self._seed = bundle, sampler, networks, seed
        self._in_float32 = in_float32
        self._again: BlockComputer | None = None

    def noise(self, block: Block) -> Float32:
        """[1 + draws, candidates · 10, C, h, w], candidate-major: start noise, then what a stochastic solver adds; an
        image's stream goes on (DESIGN §8).
        """
        shape, gain = self._bundle.manifest.latent_shape, self._sampler.mean_noise_gain
        draws, name = noise_draws(self._steps), block.scene_class.name
        found = np.empty((1 + draws, self._sampler.candidates * BLOCK, *shape), np.float32)
        for row, (candidate, index) in enumerate(self._tasks(block)):
            found[:, row] = image_noise(self._seed, name, index, candidate, shape, draws, gain)
        return found

    def images(self, block: Block, noise: Float32) -> list[Image]:
        """The block's ten images, of each the candidate with the best margin, from what `noise` gives for it.

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

    def _images(self, block: Block, noise: Float32) -> list[Image]:
        scene = block.scene_class
        latents, scores = self._candidates(block, noise)
        table = scores.reshape(self._sampler.candidates, BLOCK)
        chosen = table.argmax(axis=0)
        pixels = self._decode(block, latents[chosen * BLOCK + np.arange(BLOCK)])
        if scene.prototype_kind == "matched" and self._sampler.guidance_for(block.number).decodes:
            elements = [image_element(self._seed, scene.name, index) for index in block.indices]
            pixels = np.stack([seen_as(*pair) for pair in zip(pixels, elements, strict=True)])
        images = []
        for column, index in enumerate(block.indices):
            if pixels[column].min() == pixels[column].max():
                raise self._degenerate(block, index, "the image is constant")
            prototype = index % len(scene.prototypes) if len(scene.prototypes) else -1
            prompt = self._bundle.prompts[scene.prompt_rows[index % len(scene.prompt_rows)]]
            candidate = int(chosen[column])
            margin = float(table[candidate, column])
            images.append(Image(pixels[column], scene.name, scene.label, index, prototype, prompt, candidate, margin))
        return images

    def _degenerate(self, block: Block, index: int, what: str) -> DegenerateImageError:
        return DegenerateImageError(
            f"class {block.scene_class.name}, seed {self._seed}, index {index}: {what}; "
            "try another --seed, more --steps, or a bundle exported with --precision fp32"
        )

    def _finite(self, found: Float32, block: Block, group: list[int], graph: str) -> Float32:
        """A call's output, row by row (for guidance twice) that of the block's rows `group`.

        Raises:
            DegenerateImageError: it is not finite.
        """
        if not np.isfinite(found).all():
            row = int(np.argmin(np.isfinite(found).reshape(len(found), -1).all(axis=1)))
            index = block.indices[group[row % len(group)] % BLOCK]
            raise self._degenerate(block, index, f"{graph} gave NaN or infinite numbers")
        return found

    def _tasks(self, block: Block) -> list[tuple[int, int]]:
        """(candidate, index) of each row."""
        return [(candidate, index) for candidate in range(self._sampler.candidates) for index in block.indices]

    def _batched(self, rows: int) -> Iterator[list[int]]:
        """Row numbers in groups of exactly the compute batch."""
        batch = self._sampler.compute_batch
        for start in range(0, rows, batch):
            group = list(range(start, min(start + batch, rows)))
            yield group + group[:1] * (batch - len(group))

    def _candidates(self, block: Block, noise: Float32) -> tuple[Float32, Float32]:
        """Latents [candidates · 10, C, h, w] and their margins."""
        bundle, scene = self._bundle, block.scene_class
        guidance = self._sampler.guidance_for(block.number)
        indices = [index for _, index in self._tasks(block)]
        prompts = np.array([scene.prompt_rows[i % len(scene.prompt_rows)] for i in indices])
        prototypes = None
        if len(scene.prototypes):
            prototypes = scene.prototypes[np.array([i % len(scene.prototypes) for i in indices])]
        latents, scores = np.empty(noise.shape[1:], np.float32), np.empty(len(indices), np.float32)
        for group in self._batched(len(indices)):

            def denoise(noisy: Float32, timestep: int, context: Float32, group: list[int] = group) -> Float32:
                return self._finite(self._denoise(noisy, timestep, context), block, group, UNET)

            out = sample(
                denoise,
                noise[0, group],
                bundle.prompt_embeddings[prompts[group]],
                bundle.empty_embedding,
                None if prototypes is None else prototypes[group],
                self._steps,
                self._advance,
                bundle.schedule.prediction_type,
                guidance,
                noise[1:, group],
            )
            latents[group] = out
            logits = run_to(self._networks.judge, JUDGE, (len(group), len(bundle.classes)), latents=out)
            scores[group] = margins(self._finite(logits, block, group, JUDGE), scene.label)
        return latents, scores

    def _denoise(self, latents: Float32, timestep: int, prompts: Float32) -> Float32:
        return run_to(
            self._networks.unet,
            UNET,
            latents.shape,
            sample=latents,
            timestep=np.array(timestep, np.int64),
            encoder_hidden_states=prompts,
        )

    def _decode(self, block: Block, latents: Float32) -> npt.NDArray[np.uint8]:
        manifest = self._bundle.manifest
        scaled = latents / np.float32(manifest.scaling_factor)
        images = np.empty((len(latents), 3, *manifest.image_shape[:2]), np.float32)
        for group in self._batched(len(latents)):
            shape = (len(group), *images.shape[1:])
            decoded = run_to(self._networks.decoder, DECODER, shape, latent_sample=scaled[group])
            images[group] = self._finite(decoded, block, group, DECODER)
        return to_uint8(images)
