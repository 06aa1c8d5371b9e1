"""The extractors `mdfl` and `mdfl:BASE`, for the door `dpd.extractors`.

Loads no PyTorch.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from dpd_runtime.annotations import Progress
from dpd_train.base_files import SHIPPED_BASE, base_folder, check_base
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
