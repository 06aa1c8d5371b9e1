"""Choose an extractor by name: see NAMES."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dpd_runtime.annotations import Progress
from dpd_runtime.errors import InputError
from dpd_train.config import HUB
from dpd_train.doors import offered_names, open_door
from dpd_train.encoders import Encoder, names_encoder, offered_encoders, open_encoder
from dpd_train.scene_set import SceneSet

if TYPE_CHECKING:
    from dpd_eval.extractors import Extractor


OWN, UNTRAINED = "own", "untrained"
Build = Callable[[SceneSet, Path | None, Progress], "Extractor"]
"""(training part, cache folder, progress) → extractor."""


def build_extractor(
    name: str,
    train: SceneSet,
    *,
    cache: Path | None = None,
    progress: Progress = lambda done, total: None,
    device: str = "cpu",
) -> "Extractor":
    """Build the extractor called `name`.

    Args:
        name: `own`, a residual network that is trained on `train` for a fixed number of steps with its own seed;
            `untrained`, one with random weights; `hf:ID_OR_PATH`, a transformers image model from a folder or the local
            hub cache (nothing is downloaded); or what another package offers: an encoder (`dpd.encoders`), such as
            `swimdiff:FOLDER`, or another extractor (`dpd.extractors`), such as `mdfl` and `mdfl:BASE`. An encoder goes
            before another extractor of its name.
        train: the training part (`read_scenes(part="train")`). `own` is trained on it, `untrained` takes means and
            deviations of its features from it.
        cache: folder for the weights of `own`; None takes the user's cache directory.
        progress: of the training, or of the features of `train`; not called if nothing of that is to be done.
        device: where `own` is trained. Features are computed on the CPU.

    Raises:
        InputError: an unknown name, or a model that is missing, cannot be used, or knows RGB only.
        DataError: a class with fewer than 2 images.
        DiskError: the cache cannot be written.
    """
    check_extractor_bands(name, train)
    return _builder(name, device)(train, cache, progress)


def check_name(name: str) -> None:
    """Check an extractor's name, and the folder that it names, before any image is read.

    Raises:
        InputError: an unknown name, or a folder that cannot be used.
    """
    _builder(name)


def check_extractor_bands(name: str, scenes: SceneSet) -> None:
    """Check that an extractor can see the bands of these images.

    Raises:
        InputError: one that has learned from RGB, for images of other bands.
    """
    bands = scenes.images.shape[-1]
    if bands != 3 and name not in (OWN, UNTRAINED):
        raise InputError(
            f"--extractor {name}: sees images of 3 bands, these have {bands}; give {OWN}, {UNTRAINED}, or three bands "
            "(--bands 4,3,2)"
        )


def _builder(name: str, device: str = "cpu") -> Build:
    """What builds the extractor; PyTorch is loaded when it is called."""
    if name == OWN:
        return partial(_own, device=device)
    if name == UNTRAINED:
        return _untrained
    if name.startswith(HUB) and len(name) > len(HUB):
        return lambda train, cache, progress: _hub(name)
    if names_encoder(name):
        return partial(_encoder, name, open_encoder(name))
    family, colon, argument = name.partition(":")
    if family not in (offered := offered_names("dpd.extractors")) or (colon and not argument):
        known = ", ".join((OWN, UNTRAINED, *offered, *offered_encoders()))
        raise InputError(f"no extractor {name!r}: there are {known} and {HUB}ID_OR_PATH")
    build: Build = open_door("dpd.extractors", family)(argument)
    return build


def _own(train: SceneSet, cache: Path | None, progress: Progress, device: str) -> "Extractor":
    from dpd_eval.extractors import own_extractor

    return own_extractor(train, cache, progress, device=device)


def _untrained(train: SceneSet, cache: Path | None, progress: Progress) -> "Extractor":
    from dpd_eval.extractors import untrained_extractor

    return untrained_extractor(train)


def _hub(name: str) -> "Extractor":
    from dpd_eval.extractors import hub_extractor

    return hub_extractor(name)


def _encoder(name: str, encoder: Encoder, train: SceneSet, cache: Path | None, progress: Progress) -> "Extractor":
    from dpd_eval.extractors import encoder_extractor

    return encoder_extractor(name, encoder)
