"""A linear probe: one layer behind an encoder that stays as it is, fitted as a logistic regression, by no recipe."""

import torch
from torch import nn
from torch.nn import functional as F

from dpd_eval.extractors.untrained import stage_statistics
from dpd_eval.students.backbone import Backbone
from dpd_eval.students.logistic import features_of, fit_last_layer
from dpd_runtime.annotations import Float32, Images, Int64
from dpd_train.classifiers.encoder import Encoder


class Probe(nn.Module):
    """[B, 3, H, W] in [-1, 1] → logits [B, num_classes].

    Args:
        body: images → features [B, width]; it is frozen.
    """

    def __init__(self, body: nn.Module, width: int, num_classes: int) -> None:
        super().__init__()
        self.body, self.last = body.eval().requires_grad_(False), nn.Linear(width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.last(self.body(x))
        return logits

    def fit(self, images: Images, labels: Int64, soft: Float32 | None) -> None:
        """Fit the last layer to images [n, H, W, 3] with labels [n], or with probabilities `soft` [n, num_classes]."""
        fit_last_layer(self.last, features_of(self.eval().body, images), labels, soft)


class EncoderBody(nn.Module):
    """What the extractor `swimdiff:` sees; images larger than the encoder's are reduced to its size."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.network, self.side = encoder.network, encoder.side
        self.width = 2 * sum(encoder.network.config.widths[:-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] > self.side:
            x = F.interpolate(x, (self.side, self.side), mode="bilinear", antialias=True)
        return stage_statistics(self.network, x)


class HubBody(nn.Module):
    """What the last layer of a transformers classifier sees."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone, self.width = backbone, backbone.last.in_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.backbone.seen(x)
