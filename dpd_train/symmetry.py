"""What of an image does not depend on how it lies or is lit: symmetries, structure, appearance."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch.nn import functional as F

from dpd_runtime.annotations import Float32, Images, Int64

# -- The eight symmetries of the square (D4). Aerial images have no preferred direction, so all are equally valid.


ORDER = 8  # 4 rotations, each with and without a flip


def d4(images: torch.Tensor, element: int) -> torch.Tensor:
    """Apply one element of D4 to the last two axes.

    Args:
        images: [..., H, W] with H = W.
        element: 0 … 7; 0 is the identity, 4 … 7 flip left-right first.
    """
    if element >= 4:
        images = images.flip(-1)
    return images.rot90(element % 4, (-2, -1))


@lru_cache(maxsize=8)
def _positions(side: int, device: torch.device) -> torch.Tensor:
    """For each element and place the pixel that is moved there, [8, side²]."""
    positions = torch.arange(side * side, device=device).view(side, side)
    return torch.stack([d4(positions, element).flatten() for element in range(ORDER)])


def d4_each(images: torch.Tensor, elements: torch.Tensor) -> torch.Tensor:
    """Apply to each image its own element, in one gather without a host round trip on a GPU.

    Args:
        images: [B, C, S, S]; elements: [B] int64, on the same device.
    """
    moved = _positions(images.shape[-1], images.device)[elements][:, None].expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(-1, moved).view(images.shape)


def random_d4(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Apply a random element to each image of the batch [B, ..., H, W]."""
    elements = torch.randint(ORDER, (len(images),), generator=generator)
    out = torch.empty_like(images)
    for element in range(ORDER):
        rows = elements == element
        out[rows] = d4(images[rows], element)
    return out


# -- Structure space, in which copies are found at any contrast, similarity over the eight views, and near duplicates.
#
# It is used for near duplicates of the training set, for the check of prototypes and by the audit's tests of images.


STRUCTURE_SIDE = 16  # of the block means; coarse enough that a VAE's blur does not hide a copy
BLOCK_ROWS = 64
SAME = np.float32(1e-6)  # 1 − cosine of copies, which rounding to float32 does not make 0
NEAR = 0.95
"""Structure cosine above which two images show one scene. Of 12,000 EuroSAT images no two reach 0.88; of UC Merced's
945 two do, which show one runway. Copies at JPEG quality 90 have a median of 0.99 (EuroSAT, 64 px), brightened ones 1.
"""
AXES = 256  # of the sketch
EXACT = 1440  # values of a vector, those of three bands, up to which its axes are found exactly
ROUNDS = 3  # in which the axes of longer vectors come close to these
SAMPLED = 4096  # images that the axes are computed from
BLOCK = 256
ROUNDING = 1e-4


def coarse(images: Images) -> torch.Tensor:
    """Block means [n, N, 16, 16] float32, 0 … 255, of images [n, H, W, N]. They commute with `d4`."""
    parts = []
    for start in range(0, len(images), 256):
        pixels = torch.from_numpy(np.ascontiguousarray(images[start : start + 256])).permute(0, 3, 1, 2).float()
        parts.append(F.adaptive_avg_pool2d(pixels, STRUCTURE_SIDE))
    return torch.cat(parts)


def structure_of(means: torch.Tensor) -> Float32:
    """Steps between neighbouring block means [n, N, 16, 16], at length 1: [n, 480 N].

    The means themselves would not do: they consist mostly of a few broad gradients, which unrelated blurred images
    share.
    """
    return unit(torch.cat([means.diff(dim=3).flatten(1), means.diff(dim=2).flatten(1)], dim=1).numpy())


def structure(images: Images) -> Float32:
    """Unit vectors [n, 480 N] of images [n, H, W, N]; their cosine is the correlation of the steps."""
    return structure_of(coarse(images))


def orbit(images: Images, embed: Callable[[Images], Float32] = structure) -> Float32:
    """Vectors [n, 8, D] of the eight views of each image [n, S, S, N]."""
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    views = (d4(pixels, element).permute(0, 2, 3, 1).contiguous().numpy() for element in range(ORDER))
    return np.stack([embed(view) for view in views], axis=1)


def similarities(orbits: Float32, rows: Float32) -> Float32:
    """Highest cosine over the views of each orbit [n, views, D] with each of the rows [m, D]: [n, m]."""
    n, views, width = orbits.shape
    maxima = np.empty((n, len(rows)), np.float32)
    for start in range(0, n, BLOCK_ROWS):
        block = orbits[start : start + BLOCK_ROWS]
        cosines = block.reshape(-1, width) @ rows.T
        cosines.reshape(len(block), views, -1).max(axis=1, out=maxima[start : start + BLOCK_ROWS])
    return maxima


def closeness(cosines: Float32) -> Float32:
    """−ln(1 − cosine) with the cosine limited to 1 − 10⁻⁶: the same order on a scale without a near upper end.

    Thresholds over all classes add one margin to each class's median; on cosines the sum could exceed 1, and no copy
    would be found.
    """
    values: Float32 = -np.log(np.maximum(1 - cosines, SAME))
    return values


def unit(vectors: Float32) -> Float32:
    """Vectors [n, D] at length 1; a vector of zeros stays zero, and is similar to nothing."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units: Float32 = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return units


@dataclass(frozen=True)
class _Sketch:
    """Projections of unit vectors x on a few orthonormal axes P, with the length of the remainder.

    ⟨x, y⟩ ≤ ⟨Px, Py⟩ + ‖x − Px‖ ‖y − Py‖ (Cauchy-Schwarz), so pairs with a bound below NEAR need no full comparison.
    """

    axes: torch.Tensor

    def of(self, means: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Projections [n, AXES] and lengths of the remainders [n] of block means [n, N, 16, 16]."""
        vectors = torch.from_numpy(structure_of(means))
        projected = vectors @ self.axes
        return projected, (vectors.square().sum(1) - projected.square().sum(1)).clamp_min(0).sqrt()


def _sketch(means: torch.Tensor) -> _Sketch:
    """The directions in which these images differ most; nearly those where exact ones would take minutes.

    Any axes give the same pairs: worse ones only leave more to compare in full.
    """
    some = torch.from_numpy(structure_of(means[:: -(-len(means) // SAMPLED)]))
    if some.shape[1] <= EXACT:
        return _Sketch(torch.linalg.eigh(some.T @ some).eigenvectors[:, -AXES:].contiguous())
    axes = torch.randn(some.shape[1], AXES, generator=torch.Generator().manual_seed(0))
    for _ in range(ROUNDS):
        axes = torch.linalg.qr(some.T @ (some @ axes)).Q
    return _Sketch(axes.contiguous())


def near_duplicates(images: Images, hashes: Sequence[str]) -> dict[int, int]:
    """Rows to leave out, each with the row of the earlier image that it nearly duplicates; that one stays.

    Near duplicates are equal files, and images with a structure cosine above NEAR in any of the eight views. They
    matter because a mean of ten copies is the image, and a denoiser memorises what it sees ten times as often as the
    rest. Images of one colour are similar to nothing.

    Args:
        images: uint8 [n, S, S, N]. hashes: of their content [n].
    """
    duplicates = _repeated(hashes)
    for pairs in _near_pairs(images, duplicates):
        for later, earlier in pairs:
            if later not in duplicates and earlier not in duplicates:
                duplicates[later] = earlier
    return duplicates


def near_groups(images: Images, hashes: Sequence[str]) -> Int64:
    """Group of each image: two are in one where a chain of near duplicates joins them, as a shift can by and by.

    Args:
        images, hashes: as in `near_duplicates`, whose pairs these are; it joins no chain, as it leaves images out.

    Returns:
        the first row of the group, [n] int64.
    """
    from scipy.sparse import coo_array  # type: ignore[import-untyped]  # slow to import
    from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

    repeated, count = _repeated(hashes), len(images)
    edges = [*repeated.items(), *(pair for pairs in _near_pairs(images, repeated) for pair in pairs)]
    later, earlier = np.array(edges, np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(edges), np.int8), (later, earlier)), shape=(count, count))
    _, numbers = connected_components(graph, directed=False)
    _, first, inverse = np.unique(numbers, return_index=True, return_inverse=True)
    groups: Int64 = first[inverse].astype(np.int64)
    return groups


def _repeated(hashes: Sequence[str]) -> dict[int, int]:
    """Rows whose hash an earlier row has, with the first such row."""
    first: dict[str, int] = {}
    return {row: first[digest] for row, digest in enumerate(hashes) if first.setdefault(digest, row) != row}


def _near_pairs(images: Images, left_out: Mapping[int, int]) -> Iterator[list[tuple[int, int]]]:
    """Yield the near pairs (row, earlier row) of each BLOCK of rows in turn, sorted, without rows in `left_out`.

    Rows that the caller adds to `left_out` are not in later blocks.
    """
    means = coarse(images)
    sketch = _sketch(means)
    sketches = [sketch.of(means[start : start + BLOCK]) for start in range(0, len(means), BLOCK)]
    projected, left = (torch.cat(parts) for parts in zip(*sketches, strict=True))
    for start in range(0, len(images), BLOCK):
        stop = min(start + BLOCK, len(images))
        rows, others = (
            torch.tensor([row for row in range(begin, stop) if row not in left_out], dtype=torch.int64)
            for begin in (start, 0)
        )
        if len(rows):
            yield sorted(_near(means, sketch, rows, (others, projected[others], left[others])))


def _near(
    means: torch.Tensor, sketch: _Sketch, rows: torch.Tensor, others: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
) -> Iterator[tuple[int, int]]:
    """Yield pairs (row, earlier row among the others) that are near. others: rows [m], and their sketches."""
    among, projected, left = others
    for element in range(ORDER):
        views = d4(means[rows], element)
        ours, ours_left = sketch.of(views)
        bound = torch.addmm(torch.outer(ours_left, left), ours, projected.T)
        possible = (bound > NEAR - ROUNDING) & (among[None] < rows[:, None])
        candidates = possible.nonzero()
        for start in range(0, len(candidates), 4 * BLOCK):
            part = candidates[start : start + 4 * BLOCK]
            pairs = (views[part[:, 0]], means[among[part[:, 1]]])
            ours_full, theirs_full = (structure_of(x) for x in pairs)
            near = part[torch.from_numpy((ours_full * theirs_full).sum(axis=1) > NEAR)]
            yield from zip(rows[near[:, 0]].tolist(), among[near[:, 1]].tolist(), strict=True)


# -- Appearance of an image: its mean colour, and how its colours vary at several scales. Images in another's colours.


BANDS = 4  # scales: each is half as fine as the one before
CHANNELS = 3
OF_BAND = CHANNELS * (CHANNELS + 1) // 2
WIDTH = CHANNELS + BANDS * OF_BAND  # values of an appearance
FLOOR = 1e-4  # added to each variance, of images in [-1, 1]: less cannot be seen, and its logarithm would say much


def appearance(images: torch.Tensor) -> torch.Tensor:
    """Appearances [n, WIDTH] float64 of images [n, 3, S, S] in [-1, 1], differentiable. What is not finite is 0."""
    return appearance_of_finite(images.double().nan_to_num(0.0))


def appearance_of_finite(images: torch.Tensor) -> torch.Tensor:
    """Appearances [n, WIDTH] of images [n, 3, S, S], in their own type.

    First the mean of each channel, then for each band, fine to coarse, its covariance [3, 3] over all pixels as
    unconstrained values: with covariance = T diag(s²) Tᵀ, T lower triangular with a diagonal of ones, ln s and the rest
    of T (Pourahmadi 1999: s² are variances, and T holds regressions of a channel on those before it).
    """
    bands, mean = _bands(images.clamp(-1, 1))
    return torch.cat([mean.flatten(1), *(_unconstrained(_covariance(band)) for band in bands)], dim=1)


def _unconstrained(covariance: torch.Tensor) -> torch.Tensor:
    """ln s, then the rest of T by rows, [n, OF_BAND] of covariances [n, 3, 3]; by hand, as ONNX has no factorisation.

    No variance is below FLOOR, which each covariance has on its diagonal; rounding in float32 could make one negative.
    """
    (a, _, _), (b, d, _), (c, e, f) = (row.unbind(1) for row in covariance.unbind(1))
    of_b, of_c = b / a, c / a
    second = (d - of_b * b).clamp_min(FLOOR)
    of_e = (e - of_c * b) / second
    third = (f - of_c * c - of_e.square() * second).clamp_min(FLOOR)
    return torch.stack([0.5 * a.log(), 0.5 * second.log(), 0.5 * third.log(), of_b, of_c, of_e], dim=1)


def repainted(images: torch.Tensor, appearances: torch.Tensor) -> torch.Tensor:
    """Images [n, 3, S, S] with these appearances [n, WIDTH], as float32, cut to [-1, 1].

    Each band is mapped linearly, by the map that changes its values least (Pitié & Kokaram 2007, equation 8), as
    Reinhard et al. 2001 do with the deviations of whole images, and Heeger & Bergen 1995 with those of bands.
    """
    bands, _ = _bands(images.double().nan_to_num(0.0).clamp(-1, 1))
    appearances = appearances.double()
    parts = torch.split(appearances[:, CHANNELS:], OF_BAND, dim=1)
    painted = []
    for band, values in zip(bands, parts, strict=True):
        wanted = _wanted_covariance(values)
        root = _of_eigenvalues(_covariance(band), torch.sqrt)
        inverse = torch.linalg.inv(root)
        between = _of_eigenvalues(root @ wanted @ root, _root)
        painted.append(torch.einsum("nij,njhw->nihw", inverse @ between @ inverse, band))
    return _joined(painted, appearances[:, :CHANNELS, None, None]).clamp(-1, 1).float()


def _wanted_covariance(values: torch.Tensor) -> torch.Tensor:
    """[n, 3, 3] of the values [n, OF_BAND] of one band, cut to what a band in [-2, 2] can have: released values may be
    noise alone, whose exponential overflows.
    """
    least, most = math.sqrt(FLOOR), 2.0
    logs = values[:, :CHANNELS].clamp(math.log(least), math.log(most))
    rows, columns = torch.tril_indices(CHANNELS, CHANNELS, -1, device=values.device)
    root = torch.eye(CHANNELS, dtype=values.dtype, device=values.device).repeat(len(values), 1, 1)
    root[:, rows, columns] = values[:, CHANNELS:].clamp(-most / least, most / least)
    root = root * logs[:, None, :].exp()
    return root @ root.mT


def _bands(images: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """A Laplacian pyramid (Burt & Adelson 1983) of means over 2 × 2 pixels, and the images' mean [n, 3, 1, 1]."""
    bands = []
    for _ in range(BANDS - 1):
        coarse = F.avg_pool2d(images, 2)
        bands.append(images - _as_large(coarse, images))
        images = coarse
    mean = images.mean((2, 3), keepdim=True)
    return [*bands, images - mean], mean


def _joined(bands: list[torch.Tensor], mean: torch.Tensor) -> torch.Tensor:
    images = bands[-1] + mean
    for band in reversed(bands[:-1]):
        images = _as_large(images, band) + band
    return images


def _as_large(images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    return F.interpolate(images, size=others.shape[-2:], mode="bilinear", align_corners=False)


def _covariance(band: torch.Tensor) -> torch.Tensor:
    """[n, 3, 3] of a band [n, 3, s, s], whose mean is about 0."""
    products = torch.einsum("nihw,njhw->nij", band, band) / (band.shape[2] * band.shape[3])
    return products + FLOOR * torch.eye(CHANNELS, dtype=band.dtype, device=band.device)


def _of_eigenvalues(matrices: torch.Tensor, function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(matrices)
    result: torch.Tensor = (vectors * function(values)[:, None, :]) @ vectors.mT
    return result


def _root(values: torch.Tensor) -> torch.Tensor:
    return values.clamp_min(0).sqrt()
