"""A transformers image classifier with its own weights as the start of a training."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional as F

from dpd_eval.students.hub import build_hub_student
from dpd_runtime.annotations import Float32, Images, Int64
from dpd_runtime.errors import InputError
from dpd_train.images import to_float

BATCH = 32
PROCESSOR_NAME = "preprocessor_config.json"


class Backbone(nn.Module):
    """[B, 3, H, W] in [-1, 1] → logits [B, num_classes]. Images are brought to the size and the colours that the model
    has learned from, inside the network, so that whoever uses it need not know them.

    Args:
        side: of the images that the model has learned from; None to leave images as they are.
        mean, std: of its colours, in units of [0, 1].
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, model: nn.Module, side: int | None, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.model, self.side = model, side
        self.last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        means, deviations = torch.tensor(mean).view(1, 3, 1, 1), torch.tensor(std).view(1, 3, 1, 1)
        self.register_buffer("scale", 0.5 / deviations)
        self.register_buffer("shift", (0.5 - means) / deviations)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.side is not None and x.shape[-1] != self.side:
            x = F.interpolate(x, (self.side, self.side), mode="bilinear", align_corners=False)
        logits: torch.Tensor = self.model(x * self.scale + self.shift)
        return logits

    @torch.no_grad()
    def features(self, images: Images) -> Float32:
        """What the last layer sees of images [n, H, W, 3]: [n, D].

        Raises:
            InputError: it sees more than one vector for an image.
        """
        seen: list[torch.Tensor] = []
        handle = self.last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            for start in range(0, len(images), BATCH):
                self(to_float(torch.from_numpy(np.ascontiguousarray(images[start : start + BATCH]))))
        finally:
            handle.remove()
        if any(part.ndim != 2 for part in seen):
            raise InputError("--backbone: its last layer sees more than one vector for an image; use another model")
        features: Float32 = torch.cat(seen).numpy()
        return features

    def fit_last_layer(self, images: Images, labels: Int64) -> None:
        """Set the last layer to the logistic regression of `labels` [n] on its standardised inputs.

        Tuning all layers from a random last one would first undo what the others have learned (Kumar et al. 2022,
        2202.10054).
        """
        features = self.eval().features(images)
        mean, std = features.mean(axis=0), features.std(axis=0) + 1e-6
        fitted = LogisticRegression(max_iter=1000).fit((features - mean) / std, labels)
        weights, bias = fitted.coef_ / std, fitted.intercept_ - (fitted.coef_ / std) @ mean
        if len(weights) == 1:  # of two classes it gives one vector
            weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
        with torch.no_grad():
            self.last.weight.copy_(torch.from_numpy(weights))
            self.last.bias.copy_(torch.from_numpy(bias))


def open_backbone(folder: str, num_classes: int) -> Backbone:
    """Open a model on this machine, with a new last layer.

    Raises:
        InputError: as `build_hub_student`, or a preprocessor_config.json that cannot be used.
    """
    model = build_hub_student(f"hf:{folder}", num_classes)
    side, mean, std = _preprocessing(Path(folder).expanduser() / PROCESSOR_NAME)
    return Backbone(model, side, mean, std)


def _preprocessing(path: Path) -> tuple[int | None, list[float], list[float]]:
    """Side, mean and standard deviation of a preprocessor_config.json; none, and those of [-1, 1], without a file."""
    half = [0.5, 0.5, 0.5]
    if not path.is_file():
        return None, half, half
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        size: Any = content.get("crop_size") or content.get("size")
        if isinstance(size, dict):
            size = size.get("height", size.get("shortest_edge"))
        mean, std = (list(map(float, content.get(f"image_{name}") or half)) for name in ("mean", "std"))
        if len(mean) != 3 or len(std) != 3 or not all(std) or not (size is None or 1 <= int(size) <= 4096):
            raise ValueError("its values are out of range")
        return None if size is None else int(size), mean, std
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"--backbone: {path} cannot be used ({error}); complete the model's folder") from None
