"""The table of students, and building one by name.

A student takes [B, 3, H, W] in [-1, 1], of any size, and returns logits [B, num_classes]; one that is built with
`in_channels` takes images of so many bands. No student is a network that made or chose images. To add a family, write
its file, its name in `names` and a line in `STUDENTS`; or offer it from another package (docs/guides/extend.md). A
student with `auxiliary_loss(criterion)` adds it to its loss after each call; one with `fit(images, labels, soft)` is
fitted by that instead of by a recipe.
"""

from collections.abc import Callable
from importlib.metadata import version
from inspect import signature
from typing import Any

import torch
from torch import nn

from dpd_eval.extensions import extension_version
from dpd_eval.students import mobilenetv2, resnet, vit
from dpd_eval.students.convnet import ConvNet
from dpd_eval.students.names import NAMES, check_student, extension
from dpd_eval.students.pretrained import PROBE, build_pretrained, is_pretrained, pretrained_identity
from dpd_runtime.errors import InputError

STUDENTS: dict[str, Callable[..., nn.Module]] = {
    "convnet": ConvNet,
    "resnet": resnet.small,
    "resnet18": resnet.resnet18,
    "mobilenetv2": mobilenetv2.mobilenetv2,
    "vit-tiny": vit.vit_tiny,
}


def build_student(name: str, num_classes: int, seed: int, in_channels: int = 3) -> nn.Module:
    """Build a student with new weights that depend on `seed` only. The global generator is not changed.

    Args:
        name: a key of `STUDENTS`; `hf:ID_OR_PATH`, `swimdiff:FOLDER` or `probe:` before one of these, which start from
            the model's own weights; or a student of another package (`dpd.students`).
        in_channels: bands of the images.

    Raises:
        InputError: an unknown student, a model that is not on this machine, or one that knows RGB only.
    """
    check_student(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if is_pretrained(name):
            _refuse_bands(name, in_channels)
            return build_pretrained(name, num_classes)
        build = STUDENTS[name] if name in STUDENTS else extension(name)
        if in_channels == 3:
            return build(num_classes)
        if "in_channels" not in signature(build).parameters:
            _refuse_bands(name, in_channels)
        return build(num_classes, in_channels=in_channels)


def _refuse_bands(name: str, in_channels: int) -> None:
    """Refuse other images than RGB for a student that has learned from RGB, or is built for it."""
    if in_channels != 3:
        raise InputError(
            f"student {name}: takes images of 3 bands, these have {in_channels}; give --students convnet, another of "
            f"{', '.join(NAMES[1:])}, or three bands (--bands 4,3,2)"
        )


def at_inference(student: nn.Module) -> nn.Module:
    """Return the network that predicts: what `student.at_inference()` gives, where training needs further branches."""
    bare = getattr(student, "at_inference", None)
    return student if bare is None else bare()


def student_identity(name: str) -> str:
    """Return a text that identifies a student in the key of a stored training.

    It includes the version of transformers, which may change what a name builds, and the weights of a hub model.
    """
    if name == "convnet":
        return name
    import transformers

    known = is_pretrained(name)
    parts = [pretrained_identity(name) if known else name, f"transformers {transformers.__version__}"]
    if name.startswith(PROBE):
        parts += [f"scikit-learn {version('scikit-learn')}"]
    if name not in NAMES and not known:
        parts += [extension_version("dpd.students", name.partition(":")[0])]
    return " ".join(parts)


def count_multiply_adds(model: nn.Module, height: int, width: int, in_channels: int = 3) -> int:
    """Count the multiply-adds of convolutions and linear layers for one [in_channels, height, width] image.

    A convolution costs output elements × (in_channels / groups) × kernel area, a linear layer in × out. Norms, pooling
    and the matrix products of attention are not counted.
    """
    total = 0

    def count(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        nonlocal total
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        total += output[0].numel() * weight[0].numel()

    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(torch.zeros(1, in_channels, height, width))
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)
    return total
