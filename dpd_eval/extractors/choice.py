"""Choose an extractor by name: see NAMES."""

from pathlib import Path
from typing import TYPE_CHECKING

from dpd_runtime.annotations import Progress
from dpd_runtime.errors import InputError
from dpd_train.bases.folder import SHIPPED_BASE, base_folder, check_base
from dpd_train.classifiers.encoder import check_encoder
from dpd_train.config import FAMILY
from dpd_train.images import SceneSet

if TYPE_CHECKING:
    from dpd_eval.extractors.extractor import Extractor

NAMES = "own, untrained, swimdiff:PATH, mdfl, mdfl:BASE and hf:ID_OR_PATH"
OWN, UNTRAINED, MDFL, HUB = "own", "untrained", "mdfl", "hf:"


def build_extractor(
    name: str, train: SceneSet, *, cache: Path | None = None, progress: Progress = lambda done, total: None
) -> "Extractor":
    """Build the extractor called `name`.

    Args:
        name: `own`, a residual network that is trained on `train` for a fixed number of steps with its own seed;
            `untrained`, one with random weights; `swimdiff:PATH`, an encoder that `dpd pretrain --features swimdiff`
            trained without labels; `mdfl`, features of the denoiser of a base, the one in this package (which saw
            labels of EuroSAT) or `mdfl:BASE`; or `hf:ID_OR_PATH`, a transformers image model from a folder or the local
            hub cache. Nothing is downloaded.
        train: the training part (`read_scenes(part="train")`). `own` is trained on it, `mdfl` and `untrained` take
            means and deviations of their features from it, and the others do not use it.
        cache: folder for the weights of `own`; None takes the user's cache directory.
        progress: of the training, or of the features of `train`; not called if nothing of that is to be done.

    Raises:
        InputError: an unknown name, or a model that is missing or cannot be used.
        DataError: a class with fewer than 2 images.
        DiskError: the cache cannot be written.
    """
    check_name(name)
    if name == OWN:
        from dpd_eval.extractors.own import own_extractor

        return own_extractor(train, cache, progress)
    if name == UNTRAINED:
        from dpd_eval.extractors.untrained import untrained_extractor

        return untrained_extractor(train)
    if name.startswith(FAMILY):
        from dpd_eval.extractors.swimdiff import swimdiff_extractor

        return swimdiff_extractor(Path(name.removeprefix(FAMILY)))
    if name.startswith(MDFL):
        from dpd_eval.extractors.mdfl import mdfl_extractor

        return mdfl_extractor(_base(name), train, progress)
    from dpd_eval.extractors.hub import hub_extractor

    return hub_extractor(name)


def check_name(name: str) -> None:
    """Check an extractor's name, and the folder that it names, before any image is read.

    Raises:
        InputError: none of NAMES, or a folder that cannot be used.
    """
    if name in (OWN, UNTRAINED) or (name.startswith(HUB) and len(name) > len(HUB)):
        return
    if name.startswith(FAMILY) and len(name) > len(FAMILY):
        check_encoder(Path(name.removeprefix(FAMILY)))
        return
    if name == MDFL or (name.startswith(f"{MDFL}:") and len(name) > len(MDFL) + 1):
        check_base(_base(name), base_folder(_base(name)))
        return
    raise InputError(f"no extractor {name!r}: there are {NAMES}")


def _base(name: str) -> str:
    """The base that `mdfl` or `mdfl:BASE` names."""
    return name.removeprefix(MDFL).removeprefix(":") or SHIPPED_BASE
