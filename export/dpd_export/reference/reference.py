"""The images which PyTorch itself makes from a run: what the bundle is measured against."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import torch

from dpd_export.reference.cases import Row, Scenes
from dpd_runtime.annotations import Float32, Pixels
from dpd_runtime.checks.golden import Golden, middle
from dpd_runtime.generation.cases import Case, sample_case
from dpd_runtime.sampling.sample import Denoise
from dpd_runtime.sampling.sampler import BLOCK, Sampler
from dpd_train.bases.base import Base, decode_images, torch_denoise
from dpd_train.captions.captions import tokenize

SEED = 0
MOST_BLOCKS = 10
LARGE = 1e11  # parameters of the UNet times positions of a latent: beyond, a step takes seconds
LARGE_STEPS = 4
Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Extent:
    """How much is compared end to end: blocks of BLOCK images of different classes, and golden images."""

    blocks: int
    golden: int
    steps: int

    @property
    def large(self) -> bool:
        """One step takes seconds: the golden images are all that is compared."""
        return not self.blocks


def extent_of(base: Base, classes: int, sampler: Sampler) -> Extent:
    """A block of each class, up to MOST_BLOCKS; of a large base one image in a few steps."""
    positions = base.unet.config.sample_size**2
    if sum(p.numel() for p in base.unet.parameters()) * positions > LARGE:
        return Extent(0, 1, min(LARGE_STEPS, sampler.steps))
    return Extent(min(classes, MOST_BLOCKS), min(classes, 4), sampler.steps)


@dataclass(frozen=True)
class Reference:
    """Args:
    cases, rows: what was sampled, a case of a class each; one case of the golden rows for a large base.
    images: uint8 [n, H, W, 3] of all rows. generated: inputs of each graph as they came up on the way, by its folder.
    """

    cases: tuple[Case, ...]
    rows: tuple[Row, ...]
    images: Pixels
    golden: Golden
    generated: dict[str, list[Tensors]]


class Recorder:
    """A denoiser that keeps inputs of the calls numbered `wanted`: all rows, or the first and the last one."""

    def __init__(self, denoise: Denoise, wanted: Collection[int], *, ends_only: bool = True) -> None:
        self._denoise, self._wanted, self._ends_only, self._seen = denoise, wanted, ends_only, 0
        self.calls: list[Tensors] = []

    def __call__(self, latents: Float32, timestep: int, prompts: Float32) -> Float32:
        if self._seen in self._wanted:
            rows = sorted({0, len(latents) - 1}) if self._ends_only else list(range(len(latents)))
            kept = (latents[rows].copy(), np.array(timestep, np.int64), prompts[rows].copy())
            self.calls.append(tuple(torch.from_numpy(x) for x in kept))
        self._seen += 1
        return self._denoise(latents, timestep, prompts)


def spread(count: int, among: list[int]) -> list[int]:
    """`count` of the labels, evenly."""
    return [among[i * len(among) // count] for i in range(count)]


def make_reference(
    base: Base,
    scenes: Scenes,
    sampler: Sampler,
    extent: Extent,
    progress: Callable[[], None] = lambda: None,
) -> Reference:
    """Sample with PyTorch in float32, by the site's own sampler."""
    guidance, batch, labels = sampler.first_drawn(), sampler.compute_batch, list(range(len(scenes.names)))
    steered = [label for label in labels if len(scenes.prototypes[label])] or labels
    golden_rows = [(label, 0) for label in spread(min(extent.golden, len(steered)), steered)]
    chosen = (sampler.solver, extent.steps, guidance, batch, SEED)
    golden_case = scenes.case(golden_rows, *chosen, half=True)
    recorder = Recorder(torch_denoise(base), {0, extent.steps // 2, extent.steps - 1})
    halfway, latents = sample_case(recorder, golden_case)
    images = decode_images(base, latents)
    progress()
    golden = Golden(
        labels=tuple(label for label, _ in golden_rows),
        noise=golden_case.noise,
        halfway=halfway,
        latents=latents,
        images=middle(images),
        seed=SEED,
        solver=sampler.solver,
        steps=extent.steps,
    )
    generated = _generated(base, scenes, recorder.calls, latents, images)
    if extent.large:
        return Reference((golden_case,), tuple(golden_rows), images, golden, generated)
    cases, rows, sets = [], [], []
    for label in spread(extent.blocks, labels):
        block = [(label, index) for index in range(BLOCK)]
        cases.append(scenes.case(block, *chosen, half=False))
        sets.append(decode_images(base, sample_case(torch_denoise(base), cases[-1])[1]))
        rows += block
        progress()
    return Reference(tuple(cases), tuple(rows), np.concatenate(sets), golden, generated)


def _generated(
    base: Base, scenes: Scenes, calls: list[Tensors], latents: Float32, images: Pixels
) -> dict[str, list[Tensors]]:
    """Inputs of each part which are made, not drawn; no data of anyone's."""
    clean = torch.from_numpy(latents)
    pixels = as_inputs(images)
    texts = [*scenes.table["prompts"][:3], ""]
    return {
        "unet": calls,
        "vae_decoder": [(clean / base.vae.config.scaling_factor,)],
        "text_encoder": [(tokenize(base.tokenizer, texts),)],
        "classifier": [(pixels,)],
        "latent_classifier": [(clean,)],
        "vae_encoder": [(pixels,)],
    }


def as_inputs(images: Pixels) -> torch.Tensor:
    """uint8 [n, H, W, 3] → float32 [n, 3, H, W] in [−1, 1]."""
    return torch.from_numpy(images.astype(np.float32).transpose(0, 3, 1, 2) / 127.5 - 1.0).contiguous()
