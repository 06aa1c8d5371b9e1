"""Feature spaces in which images are compared, and similarity over the eight views of D4."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from dpd_eval.features import Extractor
from dpd_train.symmetry import ORDER, d4

Images = NDArray[np.uint8]
Float32 = NDArray[np.float32]
STRUCTURE_SIDE = 16  # of the block means: coarse enough that a VAE's blur does not hide a copy
BLOCK_ROWS = 64
SAME = np.float32(1e-6)  # 1 − cosine of copies: what float32 leaves of 0


@dataclass(frozen=True)
class Space:
    """Images uint8 [n, H, W, 3] → unit vectors [n, D]; similarity is their cosine.

    Args:
        sees_through_vae: whether an image and what a VAE makes of it are alike.
    """

    name: str
    embed: Callable[[Images], Float32]
    sees_through_vae: bool = False

    def orbit(self, images: Images) -> Float32:
        """Vectors [n, 8, D] of the eight views of each image."""
        pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        views = (d4(pixels, element).permute(0, 2, 3, 1).contiguous().numpy() for element in range(ORDER))
        return np.stack([self.embed(view) for view in views], axis=1)


def similarities(orbits: Float32, rows: Float32) -> Float32:
    """Highest cosine over the orbit [n, 8, D] with each of the rows [m, D]: [n, m]."""
    n, views, width = orbits.shape
    found = np.empty((n, len(rows)), np.float32)
    for start in range(0, n, BLOCK_ROWS):
        block = orbits[start : start + BLOCK_ROWS]
        cosines = block.reshape(-1, width) @ rows.T
        cosines.reshape(len(block), views, -1).max(axis=1, out=found[start : start + BLOCK_ROWS])
    return found


def closeness(cosines: Float32) -> Float32:
    """−ln(1 − cosine), the cosine up to 1 − 10⁻⁶: the same order, without an upper end that every class comes near.

    Thresholds over all classes add one margin to each class's median: on cosines that could end beyond 1, where no
    copy is.
    """
    found: Float32 = -np.log(np.maximum(1 - cosines, SAME))
    return found


def unit(vectors: Float32) -> Float32:
    """[n, D] at length 1; a vector of zeros stays one, and is like nothing."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units: Float32 = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return units


def teacher_space(extractor: Extractor) -> Space:
    """Cosines of a classifier's last features: what a scene is made of."""
    return Space("teacher features", lambda images: unit(extractor.features(images)))


def structure_space() -> Space:
    """Correlation of the steps between neighbouring block means (16×16, each colour): where edges lie, at any contrast.

    Steps and not the means themselves: of those most lies in a few broad gradients, which unrelated blurred images have
    in common.
    """
    return Space("structure", _structure, sees_through_vae=True)


def _structure(images: Images) -> Float32:
    found = []
    for start in range(0, len(images), 256):
        pixels = torch.from_numpy(np.ascontiguousarray(images[start : start + 256])).permute(0, 3, 1, 2).float()
        means = F.adaptive_avg_pool2d(pixels, STRUCTURE_SIDE)
        steps = means.diff(dim=3).flatten(1), means.diff(dim=2).flatten(1)
        found.append(torch.cat(steps, dim=1).numpy())
    return unit(np.concatenate(found))
