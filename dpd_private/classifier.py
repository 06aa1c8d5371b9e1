"""A classifier from the release alone: it tells no more of the private images than the release has told already."""

from collections.abc import Sequence

import torch
from torch import nn

from dpd_private.choice import Discriminant
from dpd_private.release import Release
from dpd_train.matching import Standard, Statistics, embed
from dpd_train.networks import ResNet
from dpd_train.symmetry import ORDER, appearance_of_finite, d4


class ReleasedClassifier(nn.Module):
    """The mean score of all watchers' discriminants over the symmetries of a square image.

    Each score is a log-probability of the class, up to a constant of the image, if z is normal in each class.
    """

    def __init__(self, networks: Sequence[ResNet], released: Release) -> None:
        """`networks` are those whose statistics were released, in evaluation mode."""
        super().__init__()
        sees = [*(_Features(network) for network in networks), _Appearance()]
        pairs = zip(sees, released.statistics, strict=True)
        self.opinions = nn.ModuleList(_Opinion(see, own, released) for see, own in pairs)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scores [n, classes] of images [n, 3, S, S] in [-1, 1]."""
        views = torch.cat([d4(images, element) for element in range(ORDER)])
        scores = torch.stack([opinion(views) for opinion in self.opinions]).mean(0)
        return scores.view(ORDER, -1, scores.shape[1]).mean(0)


class _Opinion(nn.Module):
    """One watcher's discriminant in float32, with all that makes images into its z."""

    mean: torch.Tensor
    scale: torch.Tensor
    projection: torch.Tensor
    directions: torch.Tensor
    offsets: torch.Tensor

    def __init__(self, see: nn.Module, own: Statistics, released: Release) -> None:
        super().__init__()
        self.see, self.limit, found = see, own.standard.limit, Discriminant(own, released)
        assert own.standard.projection is not None  # `limited_watchers` gives every watcher one
        buffers = {name: getattr(own.standard, name) for name in ("mean", "scale", "projection")}
        buffers |= {"directions": found.directions, "offsets": found.offsets}
        for name, value in buffers.items():
            self.register_buffer(name, value.float().cpu())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        z = Standard(self.mean, self.scale, self.projection, self.limit)(self.see(images))
        scores: torch.Tensor = z @ self.directions - self.offsets
        return scores


class _Features(nn.Module):
    def __init__(self, network: ResNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return embed(self.network.features(images))


class _Appearance(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return appearance_of_finite(images)
