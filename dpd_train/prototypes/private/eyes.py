"""What watchers measure of an image, as public images decide it: one vector of all watchers with a limited norm."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from dpd_train.classifiers.network import Classifier
from dpd_train.compute.device import to_device
from dpd_train.images.symmetry import ORDER, d4
from dpd_train.prototypes.matching import Standard, cut, embed, measure
from dpd_train.prototypes.matching.views import random_shifts, shifted

CALL = 250  # images in one call
UNCUT = 0.9  # share of the public images' views that each limit leaves as they are
SHIFTS = 0  # seed of the shifts


@dataclass(frozen=True)
class Eye:
    """A watcher that has never seen the private images, and how its features become z; only public images decide it."""

    network: Classifier
    standard: Standard

    @property
    def limit(self) -> float:
        """The norm that z is cut to."""
        return math.inf if self.standard.limit is None else self.standard.limit

    def z(self, images: torch.Tensor) -> torch.Tensor:
        """[n, F] of images [n, 3, H, W] in [-1, 1], in float64. What is not finite is 0: NaN would pass every limit."""
        with torch.autocast(images.device.type, torch.bfloat16):
            maps = self.network.features(images)
        return cut(self.standard(embed(maps)).double().nan_to_num(0.0, 0.0, 0.0), self.limit)


@dataclass(frozen=True)
class Eyes:
    """All watchers, and R = `limit` of their common vector u: their z, each in units of its own limit."""

    of: tuple[Eye, ...]
    limit: float
    device: torch.device

    def views(self, images: torch.Tensor) -> torch.Tensor:
        """u [8, n, D] of eight views of images [n, 3, H, W], on the CPU: each symmetry, with a shift as codes have it.

        Whatever an image is, each watcher's part of u has a norm of at most 1, and u of at most R.
        """
        seen = (_seen(to_device(part, self.device)) for part in torch.split(images, CALL))
        return torch.cat([torch.stack([self._vectors(view) for view in views]).cpu() for views in seen], dim=1)

    def _vectors(self, images: torch.Tensor) -> torch.Tensor:
        return cut(torch.cat([eye.z(images) / eye.limit for eye in self.of], dim=1), self.limit)

    def parts(self, vectors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Each watcher's part of vectors [..., D]."""
        return torch.split(vectors, [_width(eye.standard) for eye in self.of], dim=-1)


def _width(standard: Standard) -> int:
    return len(standard.mean) if standard.projection is None else standard.projection.shape[1]


@torch.no_grad()
def public_eyes(
    networks: Sequence[Classifier], images: torch.Tensor, labels: torch.Tensor, classes: int, width: int, seed: int
) -> Eyes:
    """What public images [n, 3, H, W] with labels [n] decide: means, scales, random projections and limits.

    Projections have orthonormal columns; a network with fewer features than its share of `width` keeps all of them.

    Args:
        networks: on one device, in evaluation mode.
        width: D, values of u.
    """
    device = next(networks[0].parameters()).device
    found = []
    for number, network in enumerate(networks):
        standard = measure(network, images, labels, classes, seed + number, device).standard
        generator = torch.Generator().manual_seed(seed + number)
        shape = len(standard.mean), min(width // len(networks), len(standard.mean))
        projection, _ = torch.linalg.qr(torch.randn(shape, generator=generator, dtype=torch.float64))
        standard = replace(standard, projection=projection.float().to(device))
        limit = _usual_norm(_raw(Eye(network, standard), images, device))
        found.append(Eye(network, replace(standard, limit=limit)))
    eyes = Eyes(tuple(found), math.inf, device)
    return replace(eyes, limit=_usual_norm(eyes.views(images).flatten(0, 1)))


def _raw(eye: Eye, images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """z of all views."""
    parts = torch.split(images, CALL)
    return torch.cat([eye.z(view) for part in parts for view in _seen(to_device(part, device))])


def _seen(images: torch.Tensor) -> Iterator[torch.Tensor]:
    """Views of images [n, C, S, S]: each symmetry of the square with a shift of its own, the same for all images."""
    shifts = random_shifts(torch.Generator().manual_seed(SHIFTS), ORDER, images.shape[-1])
    for element, (down, right) in enumerate(shifts):
        yield shifted(d4(images, element), down, right).contiguous(memory_format=torch.channels_last)


def _usual_norm(vectors: torch.Tensor) -> float:
    return float(vectors.norm(dim=1).quantile(UNCUT))
