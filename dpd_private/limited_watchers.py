"""What is measured of a private image: one vector of all watchers, whose norm is limited as public images decide it.

The last watcher is no network: it sees the image's appearance.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from dpd_train.compute import to_device
from dpd_train.matching import See, Standard, cut, features_of, measure, random_shifts, seeing, shifted
from dpd_train.networks import Classifier
from dpd_train.symmetry import ORDER, appearance, d4

CALL = 250  # images in one call
UNCUT = 0.9  # share of the public images' views that each limit leaves as they are
UNCUT_APPEARANCES = 0.99  # likewise: private images may look very different, and these are few values
FLOOR = 1e-3  # added to the scale of each value of an appearance
LEAST_VARIED = 0.03  # added to each eigenvalue of their correlations, which are 1 on average
SHIFTS = 0  # seed of the shifts


def see_appearance(images: torch.Tensor) -> tuple[torch.Tensor, None]:
    """Appearances [n, WIDTH] of images [n, 3, H, W] in [-1, 1], which have no opinion."""
    return appearance(images).float(), None


@dataclass(frozen=True)
class LimitedWatcher:
    """Features that never saw the private images, and how they become z; only public images decide it."""

    see: See
    standard: Standard

    @property
    def limit(self) -> float:
        """The norm that z is cut to."""
        return math.inf if self.standard.limit is None else self.standard.limit

    def z(self, images: torch.Tensor) -> torch.Tensor:
        """[n, F] of images [n, 3, H, W] in [-1, 1], in float64. What is not finite is 0: NaN would pass every limit."""
        return cut(self.standard(self.see(images)[0]).double().nan_to_num(0.0, 0.0, 0.0), self.limit)


@dataclass(frozen=True)
class LimitedWatchers:
    """All watchers, and R = `limit` of their common vector u: their z, each in units of its own limit."""

    of: tuple[LimitedWatcher, ...]
    limit: float
    device: torch.device

    def views(self, images: torch.Tensor) -> torch.Tensor:
        """u [8, n, D] of eight views of images [n, 3, H, W], on the CPU: each symmetry, with a shift as codes have it.

        Whatever an image is, each watcher's part of u has a norm of at most 1, and u of at most R.
        """
        seen = (_seen(to_device(part, self.device)) for part in torch.split(images, CALL))
        return torch.cat([torch.stack([self.vectors(view) for view in views]).cpu() for views in seen], dim=1)

    def vectors(self, images: torch.Tensor) -> torch.Tensor:
        """u [n, D] of images as they are, on their device."""
        return cut(torch.cat([watcher.z(images) / watcher.limit for watcher in self.of], dim=1), self.limit)

    def parts(self, vectors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Each watcher's part of vectors [..., D]."""
        return torch.split(vectors, [_width(watcher.standard) for watcher in self.of], dim=-1)


def _width(standard: Standard) -> int:
    return len(standard.mean) if standard.projection is None else standard.projection.shape[1]


@torch.no_grad()
def limited_watchers(
    networks: Sequence[Classifier], images: torch.Tensor, labels: torch.Tensor, classes: int, width: int, seed: int
) -> LimitedWatchers:
    """What public images [n, 3, H, W] with labels [n] decide: means, scales, random projections and limits.

    Projections have orthonormal columns; a network with fewer features than its share of `width` keeps all of them.
    The last watcher is the appearance, in which public images vary alike in all directions: whatever a noisy second
    moment does not tell is then as it is in them. Without that, noise gave images of one class every hue.

    Args:
        networks: on one device, in evaluation mode.
        width: D, values of all watchers' parts of u.
    """
    device = next(networks[0].parameters()).device
    limited = []
    for number, network in enumerate(networks):
        standard = measure(features_of(network), images, labels, classes, seed + number, device).standard
        generator = torch.Generator().manual_seed(seed + number)
        shape = len(standard.mean), min(width // len(networks), len(standard.mean))
        projection, _ = torch.linalg.qr(torch.randn(shape, generator=generator, dtype=torch.float64))
        watcher = LimitedWatcher(
            seeing(network, logits=False), replace(standard, projection=projection.float().to(device))
        )
        limited.append(_limited(watcher, images, device, UNCUT))
    appearances = torch.cat([see_appearance(to_device(part, device))[0] for part in torch.split(images, CALL)])
    scale, mean = torch.std_mean(appearances, dim=0)
    standard = Standard(mean, scale + FLOOR, _whitening((appearances - mean) / (scale + FLOOR)))
    limited.append(_limited(LimitedWatcher(see_appearance, standard), images, device, UNCUT_APPEARANCES))
    watchers = LimitedWatchers(tuple(limited), math.inf, device)
    return replace(watchers, limit=_norm(watchers.views(images).flatten(0, 1), UNCUT))


def _whitening(z: torch.Tensor) -> torch.Tensor:
    """Projection [F, F] after which values z [n, F] with a mean of 0 have a covariance of about 1."""
    values, vectors = torch.linalg.eigh(z.double().T @ z.double() / len(z))
    projection: torch.Tensor = vectors / (values.clamp_min(0) + LEAST_VARIED).sqrt()
    return projection.float()


def _limited(watcher: LimitedWatcher, images: torch.Tensor, device: torch.device, uncut: float) -> LimitedWatcher:
    """The watcher with the limit that leaves this share of z as they are."""
    return replace(watcher, standard=replace(watcher.standard, limit=_norm(_raw(watcher, images, device), uncut)))


def _raw(watcher: LimitedWatcher, images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """z of all views."""
    parts = torch.split(images, CALL)
    return torch.cat([watcher.z(view) for part in parts for view in _seen(to_device(part, device))])


def _seen(images: torch.Tensor) -> Iterator[torch.Tensor]:
    """Views of images [n, C, S, S]: each symmetry of the square with a shift of its own, the same for all images."""
    shifts = random_shifts(torch.Generator().manual_seed(SHIFTS), ORDER, images.shape[-1])
    for element, (down, right) in enumerate(shifts):
        yield shifted(d4(images, element), down, right).contiguous(memory_format=torch.channels_last)


def _norm(vectors: torch.Tensor, share: float) -> float:
    """The norm that this share of vectors has at most."""
    return float(vectors.norm(dim=1).quantile(share))
