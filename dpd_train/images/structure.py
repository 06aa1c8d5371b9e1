"""Where edges lie in an image: the space in which copies are found at any contrast, and likeness over D4.

The audit's tests of images, the near duplicates of a training set and the check of prototypes all ask here.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

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


NEAR = 0.95
"""Structure's cosine from which on two images are one scene. Of 12,000 EuroSAT images no two reach 0.88; of UC Merced's
945 two do, which show one runway. Copies at JPEG quality 90 have a median of 0.99 (EuroSAT, 64 px), brightened ones 1.
"""
AXES = 256  # of the sketch
SAMPLED = 4096  # images which the axes are taken from
BLOCK = 256
ROUNDING = 1e-4


@dataclass(frozen=True)
class _Sketch:
    """Unit vectors x on a few orthonormal axes P, with the length of what is left of each.

    ⟨x, y⟩ ≤ ⟨Px, Py⟩ + ‖x − Px‖ ‖y − Py‖ (Cauchy-Schwarz): what is below NEAR so need not be compared in full.
    """

    axes: torch.Tensor

    def of(self, means: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[n, AXES] and [n] of block means [n, 3, 16, 16]."""
        vectors = torch.from_numpy(structure_of(means))
        drawn = vectors @ self.axes
        return drawn, (vectors.square().sum(1) - drawn.square().sum(1)).clamp_min(0).sqrt()


def _sketch(means: torch.Tensor) -> _Sketch:
    """The directions in which these images differ most."""
    some = torch.from_numpy(structure_of(means[:: -(-len(means) // SAMPLED)]))
    return _Sketch(torch.linalg.eigh(some.T @ some).eigenvectors[:, -AXES:].contiguous())


def near_duplicates(images: Images, hashes: Sequence[str]) -> dict[int, int]:
    """Rows to be left out, each with the row of the earlier image that it is near to; that one stays.

    Equal files are near, others from a structure cosine of NEAR on in any of the eight views. Images of one colour are
    like nothing.

    Args:
        images: uint8 [n, S, S, 3]. hashes: of their content [n].
    """
    first: dict[str, int] = {}
    found = {row: first[digest] for row, digest in enumerate(hashes) if first.setdefault(digest, row) != row}
    means = coarse(images)
    sketch = _sketch(means)
    sketches = [sketch.of(means[start : start + BLOCK]) for start in range(0, len(means), BLOCK)]
    drawn, left = (torch.cat(parts) for parts in zip(*sketches, strict=True))
    for start in range(0, len(images), BLOCK):
        stop = min(start + BLOCK, len(images))
        rows, others = (
            torch.tensor([row for row in range(begin, stop) if row not in found], dtype=torch.int64)
            for begin in (start, 0)
        )
        if not len(rows):
            continue
        for later, earlier in sorted(_near(means, sketch, rows, (others, drawn[others], left[others]))):
            if later not in found and earlier not in found:
                found[later] = earlier
    return found


def _near(
    means: torch.Tensor, sketch: _Sketch, rows: torch.Tensor, others: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
) -> Iterator[tuple[int, int]]:
    """Pairs (row, earlier row among the others) that are near. others: rows [m], and their sketches."""
    among, drawn, left = others
    for element in range(ORDER):
        views = d4(means[rows], element)
        ours, ours_left = sketch.of(views)
        bound = torch.addmm(torch.outer(ours_left, left), ours, drawn.T)
        possible = (bound > NEAR - ROUNDING) & (among[None] < rows[:, None])
        found = possible.nonzero()
        for start in range(0, len(found), 4 * BLOCK):
            part = found[start : start + 4 * BLOCK]
            pairs = (views[part[:, 0]], means[among[part[:, 1]]])
            ours_full, theirs_full = (structure_of(x) for x in pairs)
            near = part[torch.from_numpy((ours_full * theirs_full).sum(axis=1) > NEAR)]
            yield from zip(rows[near[:, 0]].tolist(), among[near[:, 1]].tolist(), strict=True)
