"""The extractors `mdfl`, `mdfl:BASE` and `swimdiff:PATH`, for the extension point `dpd.extractors`.

Loads no PyTorch.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from dpd_runtime.annotations import Progress
from dpd_runtime.errors import InputError
from dpd_train.base_files import SHIPPED_BASE, base_folder, check_base
from dpd_train.encoder import check_encoder
from dpd_train.scene_set import SceneSet

if TYPE_CHECKING:
    from dpd_eval.extractor_choice import Build
    from dpd_eval.extractors import Extractor


def mdfl(base: str) -> "Build":
    """Features of the denoiser of a base: a path, a hub id, or "" for the one in this package.

    Raises:
        InputError: no such base.
    """
    base = base or SHIPPED_BASE
    check_base(base, base_folder(base))

    def build(train: SceneSet, cache: Path | None, progress: Progress) -> "Extractor":
        from dpd_neighbours.mdfl import mdfl_extractor

        return mdfl_extractor(base, train, progress)

    return build


def swimdiff(folder: str) -> "Build":
    """An encoder that `dpd swimdiff` trained without labels.

    Raises:
        InputError: no folder, or one that holds no such encoder.
    """
    if not folder:
        raise InputError("extractor swimdiff: name the folder of the encoder, as swimdiff:PATH")
    check_encoder(Path(folder))

    def build(train: SceneSet, cache: Path | None, progress: Progress) -> "Extractor":
        from dpd_neighbours.swimdiff.extractor import swimdiff_extractor

        return swimdiff_extractor(Path(folder))

    return build
