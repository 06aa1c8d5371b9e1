"""Type names that all packages share."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Images = npt.NDArray[np.uint8]
"""uint8 [n, H, W, 3], RGB; [n, H, W, N] of scenes with other bands."""
Pixels = npt.NDArray[np.uint8]
"""uint8 [H, W, 3], RGB; [H, W, N] of scenes with other bands."""
Progress = Callable[[int, int], None]
"""Called with the number of finished steps and the total number of steps."""
