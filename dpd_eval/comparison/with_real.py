"""A site that has a few real images of its own: students on them alone, and on the set together with them."""

from collections.abc import Iterator, Sequence

from dpd_eval.comparison.plan import SET_ARM, Arm, Part
from dpd_eval.selection.methods import select
from dpd_train.images import SceneSet

TOGETHER = f"{SET_ARM} + "


def with_real_arms(ours: Part, real: SceneSet, counts: Sequence[int], seed: int) -> Iterator[Arm]:
    """For each count k the arm `k real`, with k random images of each class of `real`, and `set + k real`.

    Args:
        ours: the set's images at the IPC that is compared.
        seed: of the random choice, the same one as of the baseline `random`.
    """
    for count in counts:
        few = real, select("random", real, count, seed)
        yield f"{count} real", (few,)
        yield f"{TOGETHER}{count} real", (ours, few)


def is_compared(arm: str, reference: str) -> bool:
    """Whether an evaluation reports `arm` − `reference`.

    The set is compared with everything made of real images alone, and `set + k real` with both of its halves.
    """
    if arm == SET_ARM:
        return reference != SET_ARM and not reference.startswith(TOGETHER)
    return arm.startswith(TOGETHER) and reference in (SET_ARM, arm.removeprefix(TOGETHER))
