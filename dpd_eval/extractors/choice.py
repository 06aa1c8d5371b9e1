"""Choose an extractor by name: `own`, trained on the user's images, or `hf:ID_OR_PATH`, a transformers model."""

from pathlib import Path
from typing import TYPE_CHECKING

from dpd_runtime.annotations import Progress
from dpd_runtime.errors import InputError
from dpd_train.images import SceneSet

if TYPE_CHECKING:
    from dpd_eval.extractors.extractor import Extractor


def build_extractor(
    name: str, train: SceneSet, *, cache: Path | None = None, progress: Progress = lambda done, total: None
) -> "Extractor":
    """Build the extractor called `name`.

    Args:
        name: `own`, a residual network that is trained on `train` for a fixed number of steps with its own seed; or
            `hf:ID_OR_PATH`, a transformers image model from a folder or the local hub cache. Nothing is downloaded.
        train: the training part (`read_scenes(part="train")`). `hf:` does not use it.
        cache: folder for the weights of `own`; None takes the user's cache directory.
        progress: of the training; not called if the weights are stored already.

    Raises:
        InputError: an unknown name, or a model that is missing or cannot be used.
        DataError: a class with fewer than 2 images.
        DiskError: the cache cannot be written.
    """
    check_name(name)
    if name == "own":
        from dpd_eval.extractors.own import own_extractor

        return own_extractor(train, cache, progress)
    from dpd_eval.extractors.hub import hub_extractor

    return hub_extractor(name)


def check_name(name: str) -> None:
    """Check an extractor's name before any image is read.

    Raises:
        InputError: neither `own` nor `hf:` followed by an ID or path.
    """
    if name != "own" and not (name.startswith("hf:") and len(name) > 3):
        raise InputError(f"no extractor {name!r}: there are own and hf:ID_OR_PATH")
