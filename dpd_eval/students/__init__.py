"""Students: the classifiers that are trained on every arm. None of them is a network that made or chose images.

One family, one file. A student takes [B, 3, H, W] in [-1, 1], of any size, and returns logits [B, num_classes]. To add
one: its file, and its line in `STUDENTS`.
"""

from collections.abc import Callable

import torch
from torch import nn

from dpd_eval.students import mobilenetv2, resnet, vit
from dpd_eval.students.convnet import ConvNet
from dpd_eval.students.cost import count_multiply_adds
from dpd_eval.students.dsdnet import DsdNet, at_inference
from dpd_eval.students.hub import PREFIX, build_hub_student, find_folder, identity, is_hub
from dpd_runtime.errors import InputError

__all__ = [
    "STUDENTS",
    "ConvNet",
    "DsdNet",
    "at_inference",
    "build_student",
    "check_student",
    "count_multiply_adds",
    "is_hub",
    "student_identity",
]

STUDENTS: dict[str, Callable[[int], nn.Module]] = {
    "convnet": ConvNet,
    "resnet": resnet.small,
    "resnet18": resnet.resnet18,
    "mobilenetv2": mobilenetv2.mobilenetv2,
    "vit-tiny": vit.vit_tiny,
}


def _dsdnet(backbone: str) -> Callable[[int], nn.Module]:
    return lambda num_classes: DsdNet(STUDENTS[backbone](num_classes), num_classes)


STUDENTS |= {f"dsdnet:{name}": _dsdnet(name) for name in ("convnet", "resnet", "resnet18")}


def check_student(name: str) -> None:
    """Raises:
    InputError: an unknown student, or a model that is not on this machine.
    """
    if is_hub(name):
        find_folder(name)
    elif name not in STUDENTS:
        raise InputError(f"no student {name!r}: there are {', '.join(STUDENTS)} and {PREFIX}ID_OR_PATH")


def build_student(name: str, num_classes: int, seed: int) -> nn.Module:
    """A fresh student whose new weights depend on `seed` alone; the global generator is left as it was.

    Args:
        name: a key of `STUDENTS`, or `hf:ID_OR_PATH`, which starts from the weights that are there.

    Raises:
        InputError: an unknown student, or a model that is not on this machine.
    """
    check_student(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return STUDENTS[name](num_classes) if name in STUDENTS else build_hub_student(name, num_classes)


def student_identity(name: str) -> str:
    """What stands for a student in the key of a stored training: equal strings train alike.

    transformers may change what a name builds, and a folder its weights, so those go in.
    """
    if name == "convnet":
        return name
    import transformers

    return " ".join([PREFIX + identity(name) if is_hub(name) else name, f"transformers {transformers.__version__}"])
