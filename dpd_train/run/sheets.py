"""Pictures of a run: sampled images, and prototypes beside real images (private)."""

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.metrics import euclidean_distances

from dpd_runtime.annotations import Float32, Images, Int64, Pixels
from dpd_runtime.dataset.sheet import contact_sheet
from dpd_runtime.images.bands import Band, picture
from dpd_runtime.sampling.noise import NoiseStream
from dpd_runtime.sampling.sample import sample
from dpd_runtime.sampling.sampler import BlockGuidance
from dpd_runtime.sampling.solvers import SOLVERS
from dpd_train.bases.base import Base, decode_images, decode_in_parts, is_large, torch_denoise
from dpd_train.captions.captions import PromptTable, embed
from dpd_train.compute.device import placed
from dpd_train.images import SceneSet
from dpd_train.prototypes.prototypes import ClassPrototypes, at_full_size, block_means, cluster_features

COLUMNS = 12


def sample_sheet(base: Base, classes: tuple[str, ...], prompts: PromptTable, seed: int, device: torch.device) -> Pixels:
    """A few images of each class by its first prompt, sampled with PyTorch: a look at the model without export."""
    embeddings = embed(base.text_encoder, base.tokenizer, prompts.texts).numpy()
    make_steps, advance = SOLVERS["dpm++2m"]
    steps, kind = make_steps(base.schedule, 15), base.schedule.prediction_type
    shape = (base.unet.config.in_channels, base.unet.config.sample_size, base.unet.config.sample_size)
    columns = 2 if is_large(base) else 6  # a large base takes minutes for one image on a CPU
    denoise, lines = torch_denoise(base), []
    with placed(base.unet, device), placed(base.vae, device):
        for name, rows in zip(classes, prompts.rows, strict=True):
            embedding = embeddings[rows[0]]
            noise = np.stack([NoiseStream(seed, name, index, 0).normal(shape) for index in range(columns)])
            context = np.repeat(embedding[None], len(noise), axis=0)
            latents = sample(denoise, noise, context, embedding, None, steps, advance, kind, BlockGuidance())
            lines.append((name, list(decode_images(base, latents))))
    return contact_sheet(lines)


def code_sheet(base: Base, scenes: SceneSet, prototypes: Sequence[ClassPrototypes | None]) -> Pixels:
    """A few decoded codes of each class, for a base that samples no images: a look without export."""
    lines = [
        (name, list(picture(decode_in_parts(base, own.latents[:6]), scenes.bands)))
        for name, own in zip(scenes.classes, prototypes, strict=True)
        if own is not None
    ]
    return contact_sheet(lines)


def _nearest_images(latents: Float32, prototypes: Float32) -> Int64:
    """Row of the image nearest to each prototype, in the space of the clustering or of the block means."""
    side = prototypes.shape[2]
    if side == latents.shape[2]:
        features, wanted = cluster_features(latents), cluster_features(prototypes)
    else:
        features, wanted = (x.reshape(len(x), -1) for x in (block_means(latents, side), prototypes))
    nearest: Int64 = euclidean_distances(wanted, features).argmin(axis=1)
    return nearest


def _prototype_sheet(
    base: Base, prototypes: Float32, latents: Float32, images: Images, bands: tuple[Band, ...]
) -> Pixels:
    """Decoded prototypes of one class above the real images nearest to them.

    Args:
        prototypes: [K, C, h, w] or block means. latents: [n, C, h, w] of the class's images [n, H, W, N].
    """
    shown = prototypes[:COLUMNS]
    nearest = images[_nearest_images(latents, shown)]
    decoded = decode_in_parts(base, at_full_size(shown, latents.shape[2]))
    rows = [(name, list(picture(row, bands))) for name, row in (("prototype", decoded), ("nearest real", nearest))]
    return contact_sheet(rows, size=images.shape[1])


def prototype_sheets(
    base: Base,
    scenes: SceneSet,
    rows: Sequence[Int64],
    latents: Float32,
    prototypes: Sequence[ClassPrototypes | None],
    device: torch.device,
) -> dict[str, Pixels]:
    """For each class that has prototypes a picture of them beside real images, which makes it private.

    Args:
        rows: of each class's images in `scenes` and `latents`.
    """
    with placed(base.vae, device):
        return {
            name: _prototype_sheet(base, own.latents, latents[members], scenes.images[members], scenes.bands)
            for name, members, own in zip(scenes.classes, rows, prototypes, strict=True)
            if own is not None
        }
