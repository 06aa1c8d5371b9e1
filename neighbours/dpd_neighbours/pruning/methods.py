"""The methods `pic-pq` and `magnitude` of `dpd export --prune`, for the door `dpd.pruning`. Loads no PyTorch."""

from typing import TYPE_CHECKING

from dpd_runtime.errors import InputError
from dpd_runtime.text import number_or_nan

if TYPE_CHECKING:
    from collections.abc import Callable

    from dpd_export.pruned import Prune, Pruned
    from dpd_export.reference import RunCases
    from dpd_train.bases import Base


def pic_pq(ratio: str) -> "Prune":
    """Filters by one ranking over all layers, which is learned for this UNet.

    Raises:
        InputError: as `_pruning`.
    """
    return _pruning("pic-pq", ratio)


def magnitude(ratio: str) -> "Prune":
    """The same share of each layer's filters, those with the smallest norms.

    Raises:
        InputError: as `_pruning`.
    """
    return _pruning("magnitude", ratio)


def _pruning(method: str, argument: str) -> "Prune":
    """The pruning that removes the share `argument` of the UNet's filters.

    Raises:
        InputError: no number, or one that does not lie between 0 and 1.
    """
    ratio = number_or_nan(argument)
    if not 0 < ratio < 1:
        given = f"{method}:{argument}" if argument else method
        raise InputError(
            f"--prune {given!r}: give the share of the UNet's filters to remove, above 0 and below 1, for example "
            f"{method}:0.3"
        )

    def prune(base: "Base", cases: "RunCases", step: "Callable[[], None]") -> "tuple[Base, Pruned]":
        from dpd_export.pruned import Pruning
        from dpd_neighbours.pruning.prune import RANKINGS, smaller

        return smaller(base, cases, Pruning(method, ratio), RANKINGS[method], step)

    return prune
