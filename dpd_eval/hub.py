"""Students `hf:ID_OR_PATH`: any transformers image classifier, from a folder or the local hub cache."""

from pathlib import Path
from typing import TYPE_CHECKING

from dpd_runtime.errors import InputError
from dpd_train.config import HUB
from dpd_train.model_files import find_model, model_hash, partial_model, refuse_random

if TYPE_CHECKING:
    from torch import nn


def is_hub(name: str) -> bool:
    return name.startswith(HUB) and len(name) > len(HUB)


def find_folder(name: str) -> Path:
    """Find the folder of the model `hf:ID_OR_PATH`. Nothing is downloaded.

    Raises:
        InputError: the model is not on this machine (the message gives the command that downloads it), or its weights
            are not safetensors.
    """
    return find_model(name.removeprefix(HUB))[0]


def identity(name: str) -> str:
    """Return the sha256 over config and weights, on which the results of this student depend."""
    return model_hash(find_folder(name))


def build_hub_student(name: str, num_classes: int) -> "nn.Module":
    """Open the model with its own weights and a new last layer, because a student must not know the classes already.

    Raises:
        InputError: not on this machine, not an image classifier, or without a linear last layer.
    """
    import torch
    from torch import nn
    from transformers import AutoModelForImageClassification

    from dpd_eval.networks import Logits

    folder, what = find_folder(name), f"student {name} as an image classifier"
    options = {"num_labels": num_classes, "ignore_mismatched_sizes": True}
    model, missing = partial_model(what, AutoModelForImageClassification, folder, torch.float32, **options)
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    last = next(reversed(linear), "")
    if not linear or linear[last].out_features != num_classes:
        raise InputError(f"{what}: its last layer is not linear; take another model")
    new = (f"{last}.weight", f"{last}.bias")  # a model without a head has none
    refuse_random(what, [key for key in missing if key.startswith(f"{model.base_model_prefix}.") and key not in new])
    linear[last].reset_parameters()
    return Logits(model)
