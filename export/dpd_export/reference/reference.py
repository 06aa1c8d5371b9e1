"""Images that PyTorch samples from a run: the bundle is measured against them."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import torch

from dpd_export.graphs.parts import Tensors
from dpd_export.reference.cases import Row, RunCases, spread
from dpd_runtime.annotations import Float32, Images
from dpd_runtime.generation.cases import Case, sample_case
from dpd_runtime.generation.golden import Golden, middle
from dpd_runtime.sampling.sample import Denoise
from dpd_runtime.sampling.sampler import BLOCK, Sampler
from dpd_train.bases.base import Base, decode_images, torch_denoise
from dpd_train.captions.captions import tokenize

SEED = 0
MOST_BLOCKS = 10
LARGE = 1e11  # parameters of the UNet times positions of a latent; above it a step takes seconds
LARGE_STEPS = 4


@dataclass(frozen=True)
class Extent:
    """How much is compared end to end.

    Args:
        blocks: number of classes of which BLOCK images are compared; 0 for a large base.
        golden: number of golden images.
        steps: sampling steps of each image.
    """

    blocks: int
    golden: int
    steps: int

    @property
    def large(self) -> bool:
        """Whether a step takes so long that only the golden images are compared."""
        return not self.blocks


def extent_of(base: Base, classes: int, sampler: Sampler) -> Extent:
    """A block of each class, up to MOST_BLOCKS; for a large base one image in a few steps."""
    positions = base.unet.config.sample_size**2
    if sum(p.numel() for p in base.unet.parameters()) * positions > LARGE:
        return Extent(0, 1, min(LARGE_STEPS, sampler.steps))
    return Extent(min(classes, MOST_BLOCKS), min(classes, 4), sampler.steps)


@dataclass(frozen=True)
class Reference:
    """PyTorch's images, and how they were sampled.

    Args:
        cases: one for each class; for a large base one case of the golden images.
        rows: labels and indices of all images.
        images: uint8 [n, H, W, 3] of all rows.
        generated: inputs of each part recorded during generation, by its folder.
    """

    cases: tuple[Case, ...]
    rows: tuple[Row, ...]
    images: Images
    golden: Golden
    generated: dict[str, list[Tensors]]


class Recorder:
    """A denoiser that keeps the inputs of the calls numbered `wanted`: all rows, or only the first and the last."""

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


def make_reference(
    base: Base, cases: RunCases, extent: Extent, progress: Callable[[], None] = lambda: None
) -> Reference:
    """Sample with PyTorch in float32, with the sampling code of the site."""
    labels = list(range(len(cases.names)))
    steered = [label for label in labels if len(cases.prototypes[label])] or labels
    golden_rows = [(label, 0) for label in spread(min(extent.golden, len(steered)), steered)]
    chosen = (extent.steps, cases.sampler.compute_batch, SEED)
    golden_case = cases.case(golden_rows, *chosen, half=True)
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
        solver=cases.sampler.solver,
        steps=extent.steps,
    )
    generated = _generated(base, cases, recorder.calls, latents, images)
    if extent.large:
        return Reference((golden_case,), tuple(golden_rows), images, golden, generated)
    sampled, rows, sets = [], [], []
    for label in spread(extent.blocks, labels):
        block = [(label, index) for index in range(BLOCK)]
        sampled.append(cases.case(block, *chosen))
        sets.append(decode_images(base, sample_case(torch_denoise(base), sampled[-1])[1]))
        rows += block
        progress()
    return Reference(tuple(sampled), tuple(rows), np.concatenate(sets), golden, generated)


def _generated(
    base: Base, cases: RunCases, calls: list[Tensors], latents: Float32, images: Images
) -> dict[str, list[Tensors]]:
    """Inputs of each part from generated images; no real image is used."""
    clean = torch.from_numpy(latents)
    pixels = as_inputs(images)
    texts = [*cases.table["prompts"][:3], ""]
    return {
        "unet": calls,
        "vae_decoder": [(clean / base.vae.config.scaling_factor,)],
        "text_encoder": [(tokenize(base.tokenizer, texts),)],
        "classifier": [(pixels,)],
        "latent_classifier": [(clean,)],
        "vae_encoder": [(pixels,)],
    }


def as_inputs(images: Images) -> torch.Tensor:
    """uint8 [n, H, W, 3] → float32 [n, 3, H, W] in [−1, 1]."""
    return torch.from_numpy(images.astype(np.float32).transpose(0, 3, 1, 2) / 127.5 - 1.0).contiguous()
