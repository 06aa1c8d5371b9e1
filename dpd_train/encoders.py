"""Encoders: networks that were trained without labels, each in a folder that another package can open (`dpd.encoders`).

They are watchers, extractors and the start of students, by one name: NAME:FOLDER. Loads no PyTorch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dpd_runtime.files import expanded
from dpd_train.doors import offered_names, open_door

if TYPE_CHECKING:
    from dpd_train.networks import ResNet


@dataclass(frozen=True)
class Encoder:
    """The encoder of a folder, which its package has checked without loading PyTorch.

    Args:
        name: NAME: and the folder's last part, as in swimdiff:eyes, for results, which hold no local paths.
        side: of the images that it was trained on, in pixels.
        sha256: of its weights; results are stored under it.
        load: opens the network, frozen and in evaluation mode: its maps are the features, its head belongs to its
            training alone. Raises InputError where the weights are damaged, or others than `sha256` says.
    """

    name: str
    side: int
    sha256: str
    load: "Callable[[], ResNet]"


def offered_encoders() -> tuple[str, ...]:
    """What lists of known names say: NAME:FOLDER for each name that an installed package offers."""
    return tuple(f"{name}:FOLDER" for name in offered_names("dpd.encoders"))


def names_encoder(named: str) -> bool:
    """Whether `named` is NAME:FOLDER, with a name that an installed package offers."""
    name, _, folder = named.partition(":")
    return bool(folder) and name in offered_names("dpd.encoders")


def open_encoder(named: str) -> Encoder:
    """Open `NAME:FOLDER`; ~ is the home folder.

    Raises:
        InputError: no package offers the name, or the folder holds no such encoder.
    """
    name, _, folder = named.partition(":")
    encoder: Encoder = open_door("dpd.encoders", name)(str(expanded(folder)))
    return encoder
