"""What `evaluate` refuses before it trains anything."""

import math
from collections.abc import Sequence
from pathlib import Path

from dpd_eval.comparison.inputs import Material
from dpd_eval.extractors.extractor import check_name
from dpd_eval.selection import METHODS, check_ipc
from dpd_eval.statistics import fewest_pairs
from dpd_eval.students import check_student
from dpd_runtime.errors import InputError


def check_arguments(
    sets: Sequence[Path],
    students: Sequence[str],
    baselines: Sequence[str],
    ipc: Sequence[int] | None,
    pairs: int | None,
    at_least: float,
    jobs: int,
) -> None:
    """Raises:
    InputError: something unknown, named twice, out of range or without effect.
    """
    if not sets:
        raise InputError("no SET given: name at least one folder of a distilled set")
    if not students:
        raise InputError("no student given: --students convnet")
    for name in students:
        check_student(name)
    for name in baselines:
        if name not in METHODS:
            raise InputError(f"no baseline {name!r}: there are {', '.join(METHODS)}")
    for flag, values in (("students", students), ("baselines", baselines), ("ipc", ipc or ())):
        if len(set(values)) != len(values):
            raise InputError(f"--{flag} names something twice: {', '.join(str(value) for value in values)}")
    if ipc is not None and (not ipc or min(ipc) < 1):
        raise InputError("--ipc: give one or more numbers ≥ 1, such as --ipc 10,50")
    if pairs is not None and pairs < max(1, len(sets)):
        raise InputError(f"--pairs is {pairs}: give at least {max(1, len(sets))}, so that every SET is used")
    if not 0 < at_least < math.inf:
        raise InputError(f"--at-least is {at_least}: give a ratio above 0, such as 0.97")
    if at_least != 1 and not baselines:
        raise InputError(f"--at-least {at_least} has no effect without --baselines")
    if jobs < 1:
        raise InputError(f"--jobs is {jobs}: give at least 1")


def extractor_name(extractor: str | None, baselines: Sequence[str], metrics: bool) -> str | None:
    """The extractor's name, or None where nothing needs one.

    Raises:
        InputError: an unknown one, or one that nothing would use.
    """
    if extractor is not None:
        check_name(extractor)
    if metrics or any(METHODS[name].sees == "features" for name in baselines):
        return extractor or "own"
    if extractor is not None:
        raise InputError(f"--extractor {extractor} has no effect: no metrics, and no baseline that looks at features")
    return None


def count_pairs(
    material: Material, baselines: Sequence[str], ipc: Sequence[int] | None, pairs: int | None
) -> dict[int, int]:
    """IPC → number of pairs, after a look at whether there are images enough.

    Raises:
        InputError: more sets than pairs.
        DataError: a class with too few images.
    """
    ipcs = tuple(ipc) if ipc else (material.smallest_class(),)
    counts = {size: fewest_pairs(size) if pairs is None else pairs for size in ipcs}
    if len(material.sets) > min(counts.values()):
        wanted = len(material.sets)
        raise InputError(
            f"{wanted} sets are more than the default {min(counts.values())} pairs use: pass --pairs {wanted}"
        )
    material.check_ipc(max(ipcs))
    for name in baselines:
        check_ipc(METHODS[name], material.real.labels, max(ipcs), material.real.classes)
    return counts
