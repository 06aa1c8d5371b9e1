"""Distance of a small set from the training images in one network's features, from their statistics alone."""

import torch
from torch.nn import functional as F

from dpd_train.prototypes.matching.statistics import Statistics

RIDGE = 0.03  # added to the kernel's diagonal, which is about 1
LEAST_VARIANCE = 1e-6


def moment_losses(features: torch.Tensor, statistics: Statistics) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean squared differences of class means and of class deviations. features: [classes, k, F], standardised."""
    count = features.shape[1]
    variance = features.var(dim=1, correction=min(1, count - 1))
    deviations = (variance + LEAST_VARIANCE).sqrt()  # the root of zero has no gradient
    means = F.mse_loss(features.mean(dim=1), statistics.class_means)
    return means, F.mse_loss(deviations, statistics.class_deviations)


def ridge_loss(features: torch.Tensor, statistics: Statistics) -> torch.Tensor:
    """Error of a ridge regression on the small set for the classes of the training images; 1 is chance.

    Targets y are one-hot minus 1 / classes. With W = Zᵀ (Z Zᵀ / F + λ)⁻¹ Y / F from the small set, the mean squared
    error over training images, each class with equal weight, is tr(Wᵀ A W) − 2 tr(Wᵀ B) + E‖y‖², where A = E[z zᵀ] and
    B = E[z yᵀ], so that only their second moment and class means are needed. This is the regression of kernel inducing
    points (Nguyen et al. 2021) on network features (Zhou et al. 2022), with the target in closed form.

    Args:
        features: [classes, k, F], standardised.
    """
    classes, count, width = features.shape
    z = features.flatten(0, 1)
    labels = torch.arange(classes, device=z.device).repeat_interleave(count)
    targets = F.one_hot(labels, classes).float() - 1 / classes
    kernel = z @ z.T / width + RIDGE * torch.eye(len(z), device=z.device)
    weights = z.T @ torch.linalg.solve(kernel, targets) / width  # [F, classes]
    together = ((statistics.class_means - statistics.class_means.mean(0)) / classes).T  # B, [F, classes]
    size = 1 - 1 / classes  # E‖y‖²
    error = (weights * (statistics.second_moment @ weights)).sum() - 2 * (weights * together).sum()
    loss: torch.Tensor = 1 + error / size
    return loss
