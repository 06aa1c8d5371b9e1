"""A transformers image classifier with its own weights as the start of a training."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from dpd_eval.students.hub import build_hub_student
from dpd_eval.students.logistic import features_of, fit_last_layer
from dpd_runtime.annotations import Images, Int64
from dpd_runtime.errors import InputError

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

    def seen(self, x: torch.Tensor) -> torch.Tensor:
        """What the last layer sees of images [B, 3, H, W]: [B, D].

        Raises:
            InputError: it sees more than one vector for an image.
        """
        seen: list[torch.Tensor] = []
        handle = self.last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            self(x)
        finally:
            handle.remove()
        if seen[0].ndim != 2:
            raise InputError("--backbone: its last layer sees more than one vector for an image; use another model")
        return seen[0]

    def fit_last_layer(self, images: Images, labels: Int64) -> None:
        """Set the last layer to the logistic regression of `labels` [n] on its standardised inputs.

        Tuning all layers from a random last one would first undo what the others have learned (Kumar et al. 2022,
        2202.10054).
        """
        fit_last_layer(self.last, features_of(self.eval().seen, images), labels)


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
