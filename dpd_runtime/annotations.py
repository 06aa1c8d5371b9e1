"""Type names that every room shares, and how a field of a config becomes an option."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Images = npt.NDArray[np.uint8]
"""uint8 [n, H, W, 3]."""
Pixels = npt.NDArray[np.uint8]
"""uint8 [H, W, 3]."""
Progress = Callable[[int, int], None]
"""Called with the steps done and the steps in all."""


def option(help: str, panel: str) -> dict[str, str]:
    """Metadata of a config's field, from which the command line makes an option.

    Args:
        help: text of `--help`: a sentence, with the unit or the accepted values where the type does not say them.
        panel: group of options in `--help`: Data, Model, Prototypes, Privacy, Running or Several machines.
    """
    return {"help": help, "panel": panel}
