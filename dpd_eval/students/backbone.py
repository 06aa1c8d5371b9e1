"""A transformers image classifier with its own weights as the start of a training."""

import torch
from torch import nn

from dpd_eval.students.hub import build_hub_student
from dpd_eval.students.logistic import features_of, fit_last_layer
from dpd_runtime.annotations import Images, Int64
from dpd_runtime.errors import InputError
from dpd_runtime.files import expanded
from dpd_train.bases.published import Colours, read_colours
from dpd_train.config import HUB


class Backbone(nn.Module):
    """[B, 3, H, W] in [-1, 1] → logits [B, num_classes]. Images are brought to the size and the colours that the model
    has learned from, inside the network, so that whoever uses it need not know them.
    """

    def __init__(self, model: nn.Module, colours: Colours) -> None:
        super().__init__()
        self.model, self.colours = model, colours
        self.last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(self.colours(x))
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
    model = build_hub_student(f"{HUB}{folder}", num_classes)
    return Backbone(model, read_colours(expanded(folder), "--backbone"))
