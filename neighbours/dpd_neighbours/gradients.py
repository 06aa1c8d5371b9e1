"""The exchange of gradients `rs-dgc:RATIO`, for the door `dpd.gradients`. Loads no PyTorch."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from dpd_runtime.errors import InputError
from dpd_runtime.text import number_or_nan

if TYPE_CHECKING:
    from dpd_train.distributed import GradientExchange

RS_DGC = "rs-dgc"


def rs_dgc(ratio: str) -> "Callable[[], GradientExchange]":
    """What begins an exchange in about `ratio` times fewer bytes.

    Raises:
        InputError: as `ratio_of`.
    """
    fewer = ratio_of(ratio)

    def begin() -> "GradientExchange":
        from dpd_neighbours.rs_dgc import RsDgc

        return RsDgc(fewer)

    return begin


def ratio_of(argument: str) -> float:
    """Read the ratio of `rs-dgc:RATIO`.

    Raises:
        InputError: it is outside 12 … 200: below 12 little is left out, and above 200 most bytes would be positions
            instead of values.
    """
    ratio = number_or_nan(argument)
    if not 12 <= ratio <= 200:
        raise InputError(
            f"--grad-compression {RS_DGC}:{argument}: say how many times fewer bytes to send, 12 to 200, as in "
            f"{RS_DGC}:50"
        )
    return ratio
