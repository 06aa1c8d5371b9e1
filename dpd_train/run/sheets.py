"""Pictures of a run: samples of the model, and prototypes beside real images (private)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from sklearn.metrics import euclidean_distances

from dpd_runtime.dataset.sheet import contact_sheet
from dpd_runtime.sampling.noise import NoiseStream
from dpd_runtime.sampling.sample import sample
from dpd_runtime.sampling.sampler import BlockGuidance
from dpd_runtime.sampling.solvers import SOLVERS
from dpd_train.bases.base import Base, decode_images, decode_in_parts, torch_denoise
from dpd_train.images import SceneSet
from dpd_train.prototypes.prototypes import ClassPrototypes, at_full_size, block_means, cluster_features

Array = np.ndarray[Any, Any]
COLUMNS = 12


def sample_sheet(base: Base, classes: tuple[str, ...], embeddings: torch.Tensor, seed: int, columns: int = 6) -> Array:
    """A few images for each class from PyTorch: a look at the model without export. embeddings: [classes, L, D]."""
    make_steps, advance = SOLVERS["dpm++2m"]
    steps = make_steps(base.schedule, 15)
    shape = (base.unet.config.in_channels, base.unet.config.sample_size, base.unet.config.sample_size)

    denoise = torch_denoise(base)
    rows = []
    for name, embedding in zip(classes, embeddings.numpy(), strict=True):
        noise = np.stack([NoiseStream(seed, name, index, 0).normal(shape) for index in range(columns)])
        context = np.repeat(embedding[None], len(noise), axis=0)
        kind = base.schedule.prediction_type
        latents = sample(denoise, noise, context, embedding, None, steps, advance, kind, BlockGuidance())
        rows.append((name, list(decode_images(base, latents))))
    return contact_sheet(rows)


def nearest_images(latents: npt.NDArray[np.float32], prototypes: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """For each prototype the row of the image nearest in the space where clusters were found, or of the block means."""
    side = prototypes.shape[2]
    if side == latents.shape[2]:
        features, wanted = cluster_features(latents), cluster_features(prototypes)
    else:
        features, wanted = (x.reshape(len(x), -1) for x in (block_means(latents, side), prototypes))
    nearest: npt.NDArray[np.int64] = euclidean_distances(wanted, features).argmin(axis=1)
    return nearest


def prototype_sheet(
    base: Base,
    prototypes: npt.NDArray[np.float32],
    latents: npt.NDArray[np.float32],
    images: npt.NDArray[np.uint8],
) -> Array:
    """Decoded prototypes of one class above the real images nearest to them.

    Args:
        prototypes: [K, C, h, w] or block means. latents: [n, C, h, w] of the class's images [n, H, W, 3].
    """
    shown = prototypes[:COLUMNS]
    nearest = images[nearest_images(latents, shown)]
    whole = at_full_size(shown, latents.shape[2])
    decoded = decode_in_parts(base, whole)
    return contact_sheet([("prototype", list(decoded)), ("nearest real", list(nearest))], size=images.shape[1])


def write_prototype_sheets(
    folder: Path,
    base: Base,
    scenes: SceneSet,
    rows: Sequence[npt.NDArray[np.int64]],
    latents: npt.NDArray[np.float32],
    prototypes: Sequence[ClassPrototypes | None],
) -> None:
    """One sheet for each class; they show real images, so `folder` lies under private/.

    Args:
        rows: of each class's images in `scenes` and `latents`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, members, found in zip(scenes.classes, rows, prototypes, strict=True):
        if found is not None:
            sheet = prototype_sheet(base, found.latents, latents[members], scenes.images[members])
            Image.fromarray(sheet).save(folder / f"{name}.png")
