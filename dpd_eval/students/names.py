"""The names of students, checked without PyTorch."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from dpd_eval.extensions import extension_names, load_extension
from dpd_eval.students.pretrained import PROBE, check_pretrained, is_pretrained
from dpd_runtime.errors import InputError
from dpd_train.config import FAMILY, HUB

if TYPE_CHECKING:
    from torch import nn

NAMES = ("convnet", "resnet", "resnet18", "mobilenetv2", "vit-tiny")


def check_student(name: str) -> None:
    """Check that a student exists.

    Raises:
        InputError: an unknown student, one that an extension refuses, or a model that is not on this machine.
    """
    if is_pretrained(name):
        check_pretrained(name)
    elif name not in NAMES:
        extension(name)


def extension(name: str) -> "Callable[..., nn.Module]":
    """Look up a student of another package, `NAME` or `NAME:ARGUMENT`; returns what builds it for a number of classes.

    Raises:
        InputError: no package offers it, or it refuses the argument.
    """
    family, colon, argument = name.partition(":")
    if family not in (offered := extension_names("dpd.students")) or (colon and not argument):
        known = ", ".join((*NAMES, *offered, f"{FAMILY}FOLDER"))
        raise InputError(f"no student {name!r}: there are {known} and {HUB}ID_OR_PATH, the last two also after {PROBE}")
    build: Callable[..., nn.Module] = load_extension("dpd.students", family)(argument)
    return build
