"""Statistics of a network's features over a labelled set of images, aggregated over whole classes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from dpd_train.classifiers.network import Classifier
from dpd_train.compute.checkpoint import step_generator
from dpd_train.compute.device import autocast, to_device
from dpd_train.prototypes.matching.views import View

VIEWS = 8000  # least number of views that statistics are measured on; every image gives equally many
CALL = 250
FLOOR = 1e-3  # added to the scale of each feature
LAST_SIDE = 2  # the last map is averaged to this many cells a side, as positions matter little

Features = Callable[[torch.Tensor], torch.Tensor]
"""Images [n, 3, H, W] in [-1, 1] → features [n, f]."""


@dataclass(frozen=True)
class Standard:
    """How a network's features [n, features] become z [n, F]: (feature − mean) / scale, projected, and cut.

    Args:
        mean, scale: [features].
        projection: [features, F]; None keeps all features.
        limit: longer z are cut to this norm; None cuts none.
    """

    mean: torch.Tensor
    scale: torch.Tensor
    projection: torch.Tensor | None = None
    limit: float | None = None

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        z = (features - self.mean) / self.scale
        z = z if self.projection is None else z @ self.projection
        return z if self.limit is None else cut(z, self.limit)


def cut(z: torch.Tensor, limit: float) -> torch.Tensor:
    """[n, F] with norms of at most `limit`; shorter rows are unchanged."""
    factors: torch.Tensor = (limit / z.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp(max=1)
    return z * factors


@dataclass(frozen=True)
class Statistics:
    """Aggregates of a network's features.

    Args:
        standard: how features become z.
        class_means: [classes, F], of z.
        class_deviations: [classes, F].
        second_moment: [F, F], mean of z zᵀ, each class with equal weight.
    """

    standard: Standard
    class_means: torch.Tensor
    class_deviations: torch.Tensor
    second_moment: torch.Tensor


def maps_of(network: Classifier, images: torch.Tensor) -> list[torch.Tensor]:
    """The network's maps, fine to coarse, of images [n, 3, H, W] in [-1, 1], in bfloat16 where the device has it."""
    with autocast(images.device):
        return network.features(images)


def embed(maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """Features [n, F] from a network's maps, fine to coarse.

    They are the last map in 2 × 2 cells, and mean and standard deviation of each channel of the others except the stem.
    """
    features = [F.adaptive_avg_pool2d(maps[-1].float(), LAST_SIDE).flatten(1)]
    for values in maps[1:-1]:
        variance, mean = torch.var_mean(values.float(), dim=(2, 3))
        features += [mean, (variance + 1e-4).sqrt()]
    return torch.cat(features, dim=1)


def features_of(network: Classifier) -> Features:
    """How a network in evaluation mode turns images into features."""
    return lambda images: embed(maps_of(network, images))


@torch.no_grad()
def measure(
    features: Features, images: torch.Tensor, labels: torch.Tensor, classes: int, seed: int, device: torch.device
) -> Statistics:
    """Statistics over random views of all images [n, 3, H, W] in [-1, 1] with labels [n].

    Args:
        features: of a network on `device`, where the statistics are returned.
    """
    passes = -(-VIEWS // len(images))
    calls = -(-len(images) // CALL)
    found, owners = [], []
    for number in range(passes):
        generator = step_generator(seed, number)
        for call in range(calls):
            part = images[call::calls]  # from all classes, as they share a shift
            view = View(generator, len(part), part.shape[-1], device)
            found.append(features(view(to_device(part, device))))
            owners.append(labels[call::calls])
    values, of_view = torch.cat(found), torch.cat(owners).to(device)
    scale, mean = torch.std_mean(values, dim=0)
    scale = scale + FLOOR
    values = (values - mean) / scale
    of_class = [values[of_view == label] for label in range(classes)]
    return Statistics(
        standard=Standard(mean, scale),
        class_means=torch.stack([z.mean(0) for z in of_class]),
        class_deviations=torch.stack([z.std(0) for z in of_class]),
        second_moment=torch.stack([z.T @ z / len(z) for z in of_class]).mean(0),
    )
