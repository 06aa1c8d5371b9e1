"""Near duplicates: one scene twice among the training images, turned, brightened or compressed anew.

A mean of ten copies is the image, and a denoiser learns by heart what it sees ten times as often as the rest.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from dpd_runtime.annotations import Images
from dpd_train.images.structure import coarse, structure_of
from dpd_train.images.symmetry import ORDER, d4

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
