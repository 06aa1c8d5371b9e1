"""The last layer of a network as a logistic regression on what it sees."""

from collections.abc import Callable

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import nn

from dpd_runtime.annotations import Float32, Images, Int64
from dpd_train.images import to_float

BATCH = 32
NEVER = 1e4  # by which the logit of a class without images lies below all others


@torch.no_grad()
def features_of(seen: Callable[[torch.Tensor], torch.Tensor], images: Images) -> Float32:
    """Features [n, D] of images uint8 [n, H, W, 3], a few at a time; `seen` gets them in [-1, 1], channels first."""
    parts = [images[i : i + BATCH] for i in range(0, len(images), BATCH)]
    found: Float32 = torch.cat([seen(to_float(torch.from_numpy(np.ascontiguousarray(p)))) for p in parts]).numpy()
    return found


def fit_last_layer(layer: nn.Linear, features: Float32, labels: Int64, soft: Float32 | None = None) -> None:
    """Set `layer` to the logistic regression (L2, C = 1) of the labels on standardised features.

    Args:
        features: [n, D]. labels: [n]; a class that has none is never predicted. soft: probabilities [n, C] to learn
            instead.
    """
    mean, std = features.mean(axis=0), features.std(axis=0) + 1e-6
    rows, weights = np.arange(len(labels)), None
    if soft is not None:
        rows, labels = np.nonzero(soft)  # an image counts for a class as much as it is of it
        weights = soft[rows, labels]
    with threadpool_limits(1):  # the order of summation depends on the threads
        fitted = LogisticRegression(max_iter=1000).fit(((features - mean) / std)[rows], labels, sample_weight=weights)
    slopes, bias = fitted.coef_ / std, fitted.intercept_ - (fitted.coef_ / std) @ mean
    if len(slopes) == 1:  # of two classes it gives one vector
        slopes, bias = np.concatenate([-slopes, slopes]) / 2, np.concatenate([-bias, bias]) / 2
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.fill_(float(bias.min()) - NEVER)
        layer.weight[fitted.classes_] = torch.from_numpy(slopes).to(layer.weight.dtype)
        layer.bias[fitted.classes_] = torch.from_numpy(bias).to(layer.bias.dtype)
