"""A student over groups of bands, for sites that lack some of them, after MIVit (Zhang et al. 2024, arXiv 2401.03179).

Each group has an encoder and a classifier of its own; one more classifier sees what all encoders found. The groups'
classifiers learn the labels and, by self-distillation, what all bands together say (the paper's information
distribution flow). Where bands are missing, a group's own branch predicts. Deviations: docs/reference/neighbours.md.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from dpd_eval.networks import ConvNet
from dpd_neighbours.self_distillation import disagreement, softened

LABELS, AGREEMENT = 1.0, 0.5
"""Weights of the groups' losses, which are averaged over the groups."""


class Branch(nn.Module):
    """The encoder and the classifier of one group: images [B, N, H, W] of all bands → logits.

    Args:
        bands: counted from 1.
    """

    def __init__(self, bands: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.places = [band - 1 for band in bands]
        self.network = ConvNet(num_classes, in_channels=len(bands))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """[B, D] of images of all bands."""
        found: torch.Tensor = self.network.body(images[:, self.places]).mean(dim=(2, 3))
        return found

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network.head(self.features(images))
        return logits


class BandGroups(nn.Module):
    """A branch for each group, and a classifier over all. In training, `auxiliary_loss` is added after each call.

    Args:
        alone: the number of the group that predicts after training; None: all together.
    """

    def __init__(self, groups: Sequence[Sequence[int]], num_classes: int, alone: int | None) -> None:
        super().__init__()
        self.branches = nn.ModuleList(Branch(bands, num_classes) for bands in groups)
        widths = [branch.network.head.in_features for branch in self.branches]  # type: ignore[union-attr]
        self.together = nn.Linear(sum(widths), num_classes)  # type: ignore[arg-type]
        self.alone = alone
        self._said: list[torch.Tensor] = []
        self._together = torch.empty(0)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found = [branch.features(images) for branch in self.branches]  # type: ignore[operator]
        self._together = self.together(torch.cat(found, dim=1))
        if self.training:
            pairs = zip(self.branches, found, strict=True)
            self._said = [branch.network.head(features) for branch, features in pairs]  # type: ignore[operator, union-attr]
        return self._together

    def at_inference(self) -> nn.Module:
        """What predicts: one group's branch, or this."""
        return self if self.alone is None else self.branches[self.alone]

    def auxiliary_loss(self, criterion: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Compute the losses of the groups' classifiers in the last training call.

        Args:
            criterion: logits [B, num_classes] → the loss with respect to that call's labels.
        """
        teacher = softened(self._together)
        total = torch.zeros((), device=teacher.device)
        for logits in self._said:
            total = total + LABELS * criterion(logits.float()) + AGREEMENT * disagreement(logits, teacher)
        return total / len(self._said)
