"""The methods `pic-pq` and `magnitude` of `dpd export --prune`, for the door `dpd.pruning`. Loads no PyTorch."""

from typing import TYPE_CHECKING

from dpd_runtime.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dpd_export.pruned import Prune, Pruned
    from dpd_export.reference import RunCases
    from dpd_train.bases import Base


def pic_pq(argument: str) -> "Prune":
    """Filters by one ranking over all layers, which is learned for this UNet: `pic-pq:RATIO`.

    Raises:
        InputError: a ratio that does not lie between 0 and 1.
    """
    ratio = _ratio("pic-pq", argument)

    def prune(base: "Base", cases: "RunCases", step: "Callable[[], None]") -> "tuple[Base, Pruned]":
        from dpd_export.pruned import Pruning
        from dpd_neighbours.pruning.prune import by_learned_importance, smaller

        return smaller(base, cases, Pruning("pic-pq", ratio), by_learned_importance, step)

    return prune


def magnitude(argument: str) -> "Prune":
    """The same share of each layer's filters, those with the smallest norms: `magnitude:RATIO`.

    Raises:
        InputError: a ratio that does not lie between 0 and 1.
    """
    ratio = _ratio("magnitude", argument)

    def prune(base: "Base", cases: "RunCases", step: "Callable[[], None]") -> "tuple[Base, Pruned]":
        from dpd_export.pruned import Pruning
        from dpd_neighbours.pruning.prune import by_magnitude, smaller

        return smaller(base, cases, Pruning("magnitude", ratio), by_magnitude, step)

    return prune


def _ratio(method: str, argument: str) -> float:
    """The share of filters to remove.

    Raises:
        InputError: no number, or one that does not lie between 0 and 1.
    """
    try:
        ratio = float(argument)
    except ValueError:
        ratio = 0.0  # fails the check below
    if not 0 < ratio < 1:  # as NaN fails it too
        given = f"{method}:{argument}" if argument else method
        raise InputError(
            f"--prune {given!r}: give the share of the UNet's filters to remove, above 0 and below 1, for example "
            f"{method}:0.3"
        )
    return ratio
