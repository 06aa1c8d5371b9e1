"""The parts of a bundle that become engines, and the shapes of their inputs."""

from collections.abc import Mapping

from dpd_runtime.bundle.profiles import INPUTS
from dpd_runtime.errors import BundleError, InputError

PARTS = tuple(INPUTS)
DEFAULT_PARTS = PARTS[:3]
"""What every `dpd generate` calls. The classifier is for `--soft-labels` only."""


def full_shape(
    name: str, declared: tuple[int, ...], batch: int, rows: Mapping[str, tuple[int, ...]]
) -> tuple[int, ...]:
    """`declared` with its open dimensions (−1) filled in: the batch first, then the sizes of `rows`.

    Raises:
        BundleError: the graph's input does not have the shape that the bundle's tables say.
    """
    if not declared:
        return ()
    wanted = (batch, *rows.get(name, declared[1:]))
    fits = len(wanted) == len(declared) and all(d in (-1, w) for d, w in zip(declared, wanted, strict=True))
    if not fits or min(wanted) < 1:
        raise BundleError(f"input {name} has shape {declared}, the bundle's tables say {wanted}; export it again")
    return wanted


def check_parts(names: tuple[str, ...] | None, files: Mapping[str, bytes]) -> tuple[str, ...]:
    """The parts without repetitions; for None those of DEFAULT_PARTS that the bundle holds.

    Raises:
        InputError: a part is unknown or not in the bundle.
    """
    there = [part for part in PARTS if f"{part}/model.onnx" in files]
    if names is None:
        return tuple(part for part in DEFAULT_PARTS if part in there)
    for name in names:
        if name not in there:
            raise InputError(
                f"part {name!r} cannot become an engine; parts of this bundle that can: {', '.join(there)}"
            )
    return tuple(dict.fromkeys(names))
