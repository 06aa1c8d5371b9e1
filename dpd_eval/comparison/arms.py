"""Which trainings an evaluation needs: the set's arm and every baseline's, paired by seed."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from dpd_eval.comparison.inputs import EvaluationInputs
from dpd_eval.comparison.plan import FULL_ARM, Training
from dpd_eval.comparison.results import StudentInfo
from dpd_eval.comparison.summary import SET_ARM
from dpd_eval.extractors.extractor import Extractor
from dpd_eval.metrics.set_metrics import FEWEST_IMAGES, SetMetrics, set_metrics
from dpd_eval.selection.method import Seen, Sight
from dpd_eval.selection.methods import METHODS, select
from dpd_eval.students.dsdnet import at_inference
from dpd_eval.students.student import build_student, count_multiply_adds
from dpd_runtime.errors import DpdError, InputError


def describe_student(name: str, classes: int, side: int) -> StudentInfo:
    """What one image of `side` pixels costs.

    Raises:
        InputError: the student cannot be built, or cannot take such images.
    """
    model = at_inference(build_student(name, classes, 0))
    try:
        cost = count_multiply_adds(model, side, side)
    except DpdError:
        raise
    except Exception as error:  # a model from outside fails in its own way
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"student {name} cannot take images of {side} px ({reason}): give another --resolution"
        ) from None
    return StudentInfo(cost, sum(p.numel() for p in model.parameters()))


def plan_trainings(
    inputs: EvaluationInputs,
    students: Mapping[str, StudentInfo],
    baselines: Sequence[str],
    pairs: Mapping[int, int],
    seen: Mapping[Sight, Seen],
) -> list[Training]:
    """Pair i is student seed i on SET i mod m and on each baseline with seed i.

    A baseline that does not draw has the same images in every pair.

    Args:
        pairs: IPC → number of pairs.
        seen: what the baselines choose from, by what they see of it.
    """
    plan: list[Training] = []
    chosen: dict[tuple[str, int, int], NDArray[np.int64]] = {}
    for ipc, count in pairs.items():
        for seed in range(count):
            which = seed % len(inputs.sets)
            arms = [(SET_ARM, inputs.sets[which], inputs.prefix(which, ipc))]
            for name in baselines:
                source = seen[METHODS[name].sees]
                key = (name, ipc, seed if METHODS[name].uses_seed else 0)
                if key not in chosen:
                    chosen[key] = select(name, source.scenes, ipc, seed, source.features)
                arms.append((name, source.scenes, chosen[key]))
            for student, info in students.items():
                cost = float(info.multiply_adds)
                plan += [Training(arm, student, ipc, seed, source, rows, cost=cost) for arm, source, rows in arms]
    return plan


def measure_arms(
    plan: Sequence[Training], real: tuple[NDArray[np.float32], NDArray[np.int64]], extractor: Extractor
) -> tuple[tuple[SetMetrics, ...], list[str]]:
    """Set metrics of the first pair's images of every arm but `full`, which is what they are compared with.

    Args:
        real: features [n, D] of the real training images, and labels [n].

    Returns:
        the metrics, and notes on arms that are too small for them.
    """
    measured, notes = [], []
    first = {(item.arm, item.ipc): item for item in plan if item.seed == 0 and item.arm != FULL_ARM}
    for item in first.values():
        if len(item.rows) < FEWEST_IMAGES:
            notes.append(f"{item.arm}, IPC {item.ipc}: {len(item.rows)} images are too few for set metrics")
            continue
        classes = item.source.classes
        measured.append(set_metrics(item.arm, item.ipc, item.data(), real, extractor, classes, seed=0))
    return tuple(measured), notes
