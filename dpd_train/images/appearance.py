"""Appearance of an image: its mean colour, and how its colours vary at several scales. Images in another's colours."""

import math
from collections.abc import Callable

import torch
from torch.nn import functional as F

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
