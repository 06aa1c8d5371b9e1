"""From a bundle to images, block by block. A block is (class, 10 consecutive indices) × candidates and depends on
nothing outside itself, so that shards, resumes and other IPC values give the same pixels (DESIGN §8).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dpd_runtime.bundle import Bundle, SceneClass
from dpd_runtime.engines import Provider, choose_provider
from dpd_runtime.engines.onnxruntime import usable_cores
from dpd_runtime.errors import DegenerateImageError, InputError
from dpd_runtime.manifest import Sampler
from dpd_runtime.noise import NoiseStream
from dpd_runtime.sampling import margins, noise_draws, sample, to_uint8
from dpd_runtime.solvers import SOLVERS

BLOCK = 10
JUDGE = "latent_classifier/model.onnx"
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Image:
    """A generated image: pixels uint8 [H, W, 3] and where it came from; prototype is −1 where the class has none."""

    pixels: npt.NDArray[np.uint8]
    class_name: str
    label: int
    index: int
    prototype: int
    prompt: str
    candidate: int
    margin: float


@dataclass(frozen=True)
class Block:
    """Indices first … first + 9 of one class."""

    scene_class: SceneClass
    number: int

    @property
    def indices(self) -> range:
        return range(self.number * BLOCK, (self.number + 1) * BLOCK)


def resolve_sampler(
    sampler: Sampler,
    *,
    steps: int | None = None,
    solver: str | None = None,
    candidates: int | None = None,
    guidance_scale: float | None = None,
) -> Sampler:
    """The bundle's sampler with what the user asked for in its place.

    Raises:
        InputError: a value outside its range, naming the range.
    """
    if solver is not None and solver not in SOLVERS:
        raise InputError(f"solver {solver!r} is unknown: use one of {', '.join(SOLVERS)}")
    if steps is not None and not 1 <= steps <= 1000:
        raise InputError(f"steps is {steps}: it must be 1 … 1000")
    if candidates is not None and not 1 <= candidates <= 64:
        raise InputError(f"candidates is {candidates}: it must be 1 … 64")
    if guidance_scale is not None and not 1 <= guidance_scale <= 50:
        raise InputError(f"guidance-scale is {guidance_scale}: it must be 1 … 50, where 1 means no guidance")
    guidance = sampler.guidance
    if guidance_scale is not None:
        guidance = tuple(replace(g, guidance_scale=guidance_scale) for g in guidance)
    return replace(
        sampler,
        steps=steps or sampler.steps,
        solver=solver or sampler.solver,
        candidates=candidates or sampler.candidates,
        guidance=guidance,
    )


class Generation:
    """A sized iterable of `ipc` images for each class. Nothing is written; graphs load with the first image."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        ipc: int,
        seed: int = 0,
        classes: tuple[str, ...] | None = None,
        sampler: Sampler | None = None,
        provider: str = "auto",
        threads: int | None = None,
    ) -> None:
        """Raises:
        InputError: ipc, seed or a class name is out of range.
        ProviderError: the provider asked for does not work here.
        """
        if ipc < 1:
            raise InputError(f"ipc is {ipc}: ask for at least 1 image per class")
        if not 0 <= seed < 2**64:
            raise InputError(f"seed is {seed}: it must be 0 … 2**64 - 1")
        self.bundle, self.ipc, self.seed = bundle, ipc, seed
        self.classes = bundle.select_classes(classes)
        self.sampler = sampler or bundle.manifest.sampler
        self.threads = threads or usable_cores()
        self.provider = choose_provider(provider, lambda found: bundle.engine(JUDGE, found, self.threads))
        self._compute: Callable[[Block], list[Image]] | None = None

    def __len__(self) -> int:
        return len(self.classes) * self.ipc

    def __iter__(self) -> Iterator[Image]:
        for block in self.blocks():
            yield from self.compute(block)

    def blocks(self) -> list[Block]:
        """The units of work, class by class."""
        count = -(-self.ipc // BLOCK)
        return [Block(c, number) for c in self.classes for number in range(count)]

    def compute(self, block: Block) -> list[Image]:
        """The block's images whose index is below ipc; the whole block is computed either way.

        Raises:
            DegenerateImageError: NaN or constant pixels.
        """
        return [image for image in self.load()(block) if image.index < self.ipc]

    def load(self) -> Callable[[Block], list[Image]]:
        """Load the graphs, once; the first image does it where nobody did before.

        Raises:
            InputError: a number of steps which the schedule does not allow.
        """
        if self._compute is None:
            self._compute = _block_function(self.bundle, self.sampler, self.provider, self.seed, self.threads)
        return self._compute


def generate(
    bundle: Bundle,
    *,
    ipc: int,
    seed: int = 0,
    classes: tuple[str, ...] | None = None,
    sampler: Sampler | None = None,
    provider: str = "auto",
    threads: int | None = None,
) -> Generation:
    """`for image in generate(load_bundle("site.dpd"), ipc=50, seed=0): …` — see `Generation`."""
    return Generation(bundle, ipc=ipc, seed=seed, classes=classes, sampler=sampler, provider=provider, threads=threads)


def _block_function(
    bundle: Bundle, sampler: Sampler, provider: Provider, seed: int, threads: int
) -> Callable[[Block], list[Image]]:
    """Load the graphs once and return the function that computes one block."""
    unet = bundle.engine("unet/model.onnx", provider, threads)
    decoder = bundle.engine("vae_decoder/model.onnx", provider, threads)
    judge = bundle.engine(JUDGE, provider, threads)
    make_steps, advance = SOLVERS[sampler.solver]
    try:
        steps = make_steps(bundle.schedule, sampler.steps)
    except ValueError as error:
        raise InputError(f"--steps {sampler.steps} with {sampler.solver}: {error}") from error
    shape, batch = bundle.manifest.latent_shape, sampler.compute_batch

    def normals(scene: SceneClass, index: int, candidate: int) -> Float32:
        """[1 + draws, C, h, w]: start noise, then what a stochastic solver adds; the stream goes on (DESIGN §8)."""
        stream = NoiseStream(seed, scene.name, index, candidate)
        return np.stack([stream.normal(shape) for _ in range(1 + noise_draws(steps))])

    def denoise(latents: Float32, timestep: int, prompts: Float32) -> Float32:
        return unet.run(sample=latents, timestep=np.array(timestep, np.int64), encoder_hidden_states=prompts)

    def batched(rows: int) -> Iterator[list[int]]:
        """Row numbers in groups of exactly `batch`; the last group is filled up with its first row."""
        for start in range(0, rows, batch):
            group = list(range(start, min(start + batch, rows)))
            yield group + group[:1] * (batch - len(group))

    def candidates(block: Block) -> tuple[Float32, Float32]:
        """Latents [candidates · 10, C, h, w], candidate-major, and their margins."""
        scene, guidance = block.scene_class, sampler.guidance_for(block.number)
        tasks = [(candidate, index) for candidate in range(sampler.candidates) for index in block.indices]
        rows = np.array([scene.prompt_rows[i % len(scene.prompt_rows)] for _, i in tasks])
        prototypes = None
        if len(scene.prototypes):
            prototypes = scene.prototypes[np.array([i % len(scene.prototypes) for _, i in tasks])]
        latents, scores = np.empty((len(tasks), *shape), np.float32), np.empty(len(tasks), np.float32)
        for group in batched(len(tasks)):
            noise = np.stack([normals(scene, tasks[row][1], tasks[row][0]) for row in group], axis=1)
            out = sample(
                denoise,
                noise[0],
                bundle.prompt_embeddings[rows[group]],
                bundle.empty_embedding,
                None if prototypes is None else prototypes[group],
                steps,
                advance,
                bundle.schedule.prediction_type,
                guidance,
                noise[1:],
            )
            latents[group] = out
            scores[group] = margins(judge.run(latents=out), scene.label)
        return latents, scores

    def decode(latents: Float32) -> npt.NDArray[np.uint8]:
        scaled = latents / np.float32(bundle.manifest.scaling_factor)
        images = np.empty((len(latents), 3, *bundle.manifest.image_shape[:2]), np.float32)
        for group in batched(len(latents)):
            images[group] = decoder.run(latent_sample=scaled[group])
        whole = np.isfinite(images).all(axis=(1, 2, 3), keepdims=True)
        return to_uint8(np.where(whole, images, 0))  # a broken image becomes a constant one, which is refused below

    def compute(block: Block) -> list[Image]:
        scene = block.scene_class
        latents, scores = candidates(block)
        table = scores.reshape(sampler.candidates, BLOCK)
        chosen = np.where(np.isnan(table), -np.inf, table).argmax(axis=0)
        pixels = decode(latents[chosen * BLOCK + np.arange(BLOCK)])
        images = []
        for column, index in enumerate(block.indices):
            if pixels[column].min() == pixels[column].max():
                raise DegenerateImageError(
                    f"class {scene.name}, seed {seed}, index {index}: the image is NaN or constant; "
                    "try another --seed, more --steps, or a bundle exported with --precision fp32"
                )
            prototype = index % len(scene.prototypes) if len(scene.prototypes) else -1
            prompt = bundle.prompts[scene.prompt_rows[index % len(scene.prompt_rows)]]
            candidate = int(chosen[column])
            margin = float(table[candidate, column])
            images.append(Image(pixels[column], scene.name, scene.label, index, prototype, prompt, candidate, margin))
        return images

    return compute
