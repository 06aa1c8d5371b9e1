"""Where edges lie in an image: the space in which copies are found at any contrast, and likeness over D4.

The audit's tests of images, the near duplicates of a training set and the check of prototypes all ask here.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F

from dpd_runtime.annotations import Float32, Images
from dpd_train.images.symmetry import ORDER, d4

STRUCTURE_SIDE = 16  # of the block means: coarse enough that a VAE's blur does not hide a copy
BLOCK_ROWS = 64
SAME = np.float32(1e-6)  # 1 − cosine of copies: what float32 leaves of 0


def coarse(images: Images) -> torch.Tensor:
    """Block means [n, 3, 16, 16] float32, 0 … 255, of images [n, H, W, 3]. The d4 of these are those of the d4."""
    parts = []
    for start in range(0, len(images), 256):
        pixels = torch.from_numpy(np.ascontiguousarray(images[start : start + 256])).permute(0, 3, 1, 2).float()
        parts.append(F.adaptive_avg_pool2d(pixels, STRUCTURE_SIDE))
    return torch.cat(parts)


def structure_of(means: torch.Tensor) -> Float32:
    """Steps between neighbouring block means [n, 3, 16, 16], at length 1: [n, 1440].

    Steps and not the means themselves: of those most lies in a few broad gradients, which unrelated blurred images have
    in common.
    """
    return unit(torch.cat([means.diff(dim=3).flatten(1), means.diff(dim=2).flatten(1)], dim=1).numpy())


def structure(images: Images) -> Float32:
    """Images [n, H, W, 3] → unit vectors [n, 1440]; their cosine is the correlation of the steps."""
    return structure_of(coarse(images))


def orbit(images: Images, embed: Callable[[Images], Float32] = structure) -> Float32:
    """Vectors [n, 8, D] of the eight views of each image [n, S, S, 3]."""
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    views = (d4(pixels, element).permute(0, 2, 3, 1).contiguous().numpy() for element in range(ORDER))
    return np.stack([embed(view) for view in views], axis=1)


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
