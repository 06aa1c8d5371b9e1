"""One block from its noise to its images. Nothing here knows of files, of other blocks or of how many images are
asked for.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dpd_runtime.blocks.block import BLOCK, Block, Image
from dpd_runtime.bundle import Bundle
from dpd_runtime.engines import Engine, Provider, run_to
from dpd_runtime.errors import DegenerateImageError, InputError
from dpd_runtime.manifest import Sampler, check_noise, sampler_schedule
from dpd_runtime.noise import image_noise
from dpd_runtime.sampling import margins, noise_draws, sample, to_uint8
from dpd_runtime.solvers import SOLVERS, Step

JUDGE = "latent_classifier/model.onnx"
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Networks:
    unet: Engine
    decoder: Engine
    judge: Engine


class BlockComputer:
    """Computes blocks with loaded networks, in calls of a fixed batch, the last one filled up with its first row."""

    def __init__(self, bundle: Bundle, sampler: Sampler, networks: Networks, seed: int) -> None:
        """Raises:
        InputError: a number of steps which the schedule does not allow.
        """
        make_steps, self._advance = SOLVERS[sampler.solver]
        try:
            self._steps: Sequence[Step] = make_steps(sampler_schedule(bundle.schedule, sampler), sampler.steps)
            check_noise(bundle.manifest.latent_shape, sampler.candidates, noise_draws(self._steps))
        except ValueError as error:
            raise InputError(f"--steps {sampler.steps} with {sampler.solver}: {error}") from error
        self._bundle, self._sampler, self._networks, self._seed = bundle, sampler, networks, seed

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
            DegenerateImageError: NaN or constant pixels.
        """
        scene = block.scene_class
        latents, scores = self._candidates(block, noise)
        table = scores.reshape(self._sampler.candidates, BLOCK)
        chosen = np.where(np.isnan(table), -np.inf, table).argmax(axis=0)
        pixels = self._decode(latents[chosen * BLOCK + np.arange(BLOCK)])
        images = []
        for column, index in enumerate(block.indices):
            if pixels[column].min() == pixels[column].max():
                raise DegenerateImageError(
                    f"class {scene.name}, seed {self._seed}, index {index}: the image is NaN or constant; "
                    "try another --seed, more --steps, or a bundle exported with --precision fp32"
                )
            prototype = index % len(scene.prototypes) if len(scene.prototypes) else -1
            prompt = self._bundle.prompts[scene.prompt_rows[index % len(scene.prompt_rows)]]
            candidate = int(chosen[column])
            margin = float(table[candidate, column])
            images.append(Image(pixels[column], scene.name, scene.label, index, prototype, prompt, candidate, margin))
        return images

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
            out = sample(
                self._denoise,
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
            scores[group] = margins(logits, scene.label)
        return latents, scores

    def _denoise(self, latents: Float32, timestep: int, prompts: Float32) -> Float32:
        return run_to(
            self._networks.unet,
            "unet/model.onnx",
            latents.shape,
            sample=latents,
            timestep=np.array(timestep, np.int64),
            encoder_hidden_states=prompts,
        )

    def _decode(self, latents: Float32) -> npt.NDArray[np.uint8]:
        manifest = self._bundle.manifest
        scaled = latents / np.float32(manifest.scaling_factor)
        images = np.empty((len(latents), 3, *manifest.image_shape[:2]), np.float32)
        for group in self._batched(len(latents)):
            shape = (len(group), *images.shape[1:])
            images[group] = run_to(self._networks.decoder, "vae_decoder/model.onnx", shape, latent_sample=scaled[group])
        whole = np.isfinite(images).all(axis=(1, 2, 3), keepdims=True)
        return to_uint8(np.where(whole, images, 0))  # a broken image becomes a constant one, which is refused


def load_networks(bundle: Bundle, provider: Provider, threads: int) -> Networks:
    """Raises:
    ProviderError: the provider does not load a graph.
    """
    unet, decoder = (bundle.engine(f"{part}/model.onnx", provider, threads) for part in ("unet", "vae_decoder"))
    return Networks(unet, decoder, bundle.engine(JUDGE, provider, threads))
