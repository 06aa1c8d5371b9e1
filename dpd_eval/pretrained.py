"""Names of students, and those that begin with weights which have seen other images."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from dpd_eval.hub import find_folder, identity, is_hub
from dpd_runtime.errors import InputError
from dpd_runtime.files import expanded
from dpd_train.config import HUB
from dpd_train.doors import offered_names, open_door
from dpd_train.encoders import names_encoder, offered_encoders, open_encoder
from dpd_train.model_files import public_name

if TYPE_CHECKING:
    from torch import nn


# -- Students that begin with an encoder: `NAME:FOLDER` tunes one that was trained without labels, such as
# `swimdiff:FOLDER`, as `hf:` tunes a transformers model, and `probe:` before either name fits one layer behind it and
# leaves the encoder as it is. `tune:hf:ID_OR_PATH` tunes all layers of a published network as `dpd fit --backbone`
# does: it sees images enlarged and in its own colours, its last layer is fitted first, and the recipe is its own.


PROBE, TUNE, TUNE_RECIPE = "probe:", "tune:", "tune"


def is_pretrained(name: str) -> bool:
    """Whether the student begins with weights that have seen other images."""
    return is_hub(name) or name.startswith((PROBE, TUNE)) or names_encoder(name)


def check_pretrained(name: str) -> None:
    """Check the folder that the name of a pretrained student gives. Loads no PyTorch.

    Raises:
        InputError: nothing of that kind is there.
    """
    inner = without_way(name)
    if is_hub(inner):
        find_folder(inner)
    elif name.startswith(TUNE):
        raise InputError(f"student {name}: give {TUNE}{HUB}ID_OR_PATH")
    elif names_encoder(inner):
        open_encoder(inner)
    else:
        known = " or ".join(PROBE + there for there in (*offered_encoders(), f"{HUB}ID_OR_PATH"))
        raise InputError(f"student {name}: give {known}")


def without_way(name: str) -> str:
    """The name of what a student begins with, without how it is trained."""
    return name.removeprefix(TUNE if name.startswith(TUNE) else PROBE)


def without_folder(name: str) -> str:
    """The name of a student as a record gives it: of a folder on this machine the last part alone."""
    if not is_pretrained(name):
        return name
    inner = without_way(name)
    family, _, place = inner.partition(":")
    public = public_name(place) if is_hub(inner) else f"{family}:{expanded(place).resolve().name}"
    return name.removesuffix(inner) + public


def pretrained_identity(name: str) -> str:
    """The name with the hash of the weights instead of a folder; results depend on it."""
    inner = without_way(name)
    family, colon, _ = inner.partition(":")
    weights = identity(inner) if is_hub(inner) else open_encoder(inner).sha256
    return name.removesuffix(inner) + family + colon + weights


def build_pretrained(name: str, num_classes: int) -> "nn.Module":
    """Build the student with a new last layer.

    Raises:
        InputError: as `check_pretrained`, or weights that cannot be used.
    """
    from torch import nn

    from dpd_eval.backbones import EncoderBody, HubBody, Probe, open_backbone
    from dpd_eval.hub import build_hub_student

    if name.startswith(TUNE):
        return open_backbone(without_way(name).removeprefix(HUB), num_classes).reduced()
    if name.startswith(PROBE):
        inner = without_way(name)
        hub = HubBody(open_backbone(inner.removeprefix(HUB), num_classes)) if is_hub(inner) else None
        body = hub or EncoderBody(open_encoder(inner))
        return Probe(body, body.width, num_classes, pretrained_identity(inner))
    if is_hub(name):
        return build_hub_student(name, num_classes)
    network = open_encoder(name).load().requires_grad_()
    network.head = nn.Linear(network.head.in_features, num_classes)
    return network


# -- The names of students, checked without PyTorch.


NAMES = ("convnet", "convnet-d3", "resnet", "resnet18", "mobilenetv2", "vit-tiny")


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
    if family not in (offered := offered_names("dpd.students")) or (colon and not argument):
        encoders = offered_encoders()
        raise InputError(
            f"no student {name!r}: there are {', '.join((*NAMES, *offered, *encoders))} and {HUB}ID_OR_PATH, the last "
            f"{1 + len(encoders)} also after {PROBE}, and {TUNE}{HUB}ID_OR_PATH"
        )
    build: Callable[..., nn.Module] = open_door("dpd.students", family)(argument)
    return build
