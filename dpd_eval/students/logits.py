"""A transformers image classifier with the interface of a student."""

import inspect
from typing import Any

import torch
from torch import nn


class Logits(nn.Module):
    """[B, C, H, W] in [-1, 1] → logits [B, num_classes] of a transformers model.

    Position embeddings are interpolated if the model supports it, so that images of any size can be used.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        accepted = inspect.signature(model.forward).parameters
        self.options = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in accepted else {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(pixel_values=x, **self.options).logits
        return logits
