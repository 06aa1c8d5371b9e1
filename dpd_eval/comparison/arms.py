"""The trainings that an evaluation needs, for the set's arm and for every baseline, paired by seed."""

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from dpd_eval.comparison.alternatives import Alternatives
from dpd_eval.comparison.arm_names import FULL_ARM, HELD_OUT, SET_ARM, is_joint, is_own, joint_arm, own_arm
from dpd_eval.comparison.inputs import EvaluationInputs
from dpd_eval.comparison.plan import Part, Training
from dpd_eval.comparison.results import StudentInfo
from dpd_eval.extractors.extractor import Extractor
from dpd_eval.metrics.detail import SetDetail, set_detail
from dpd_eval.metrics.set_metrics import FEWEST_IMAGES, SetMetrics, set_metrics
from dpd_eval.selection.method import Seen
from dpd_eval.selection.methods import find_method, select
from dpd_eval.students.student import at_inference, build_student, count_multiply_adds
from dpd_runtime.annotations import Float32, Int64
from dpd_runtime.errors import DpdError, InputError
from dpd_train.classifiers.network import count_parameters
from dpd_train.images import SceneSet


def describe_student(name: str, classes: int, side: int, in_channels: int = 3) -> StudentInfo:
    """Count a student's parameters and its multiply-adds for one image of `side` pixels and so many bands.

    Raises:
        InputError: the student cannot be built, or cannot process such images.
    """
    model = at_inference(build_student(name, classes, 0, in_channels))
    try:
        cost = count_multiply_adds(model, side, side, in_channels)
    except DpdError:
        raise
    except Exception as error:  # a hub model may raise anything
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"student {name} cannot process images of {side} px ({reason}): give another --resolution"
        ) from None
    return StudentInfo(cost, count_parameters(model))


def plan_trainings(
    inputs: EvaluationInputs,
    students: Mapping[str, StudentInfo],
    baselines: Sequence[str],
    pairs: Mapping[int, int],
    seen: Mapping[str, Seen],
    with_real: Sequence[int] = (),
    others: Alternatives | None = None,
) -> list[Training]:
    """Plan the trainings: pair i uses student seed i, SET i mod m and each baseline with seed i.

    A baseline without randomness has the same images in every pair.

    Args:
        pairs: IPC → number of pairs.
        seen: what each baseline, and `random`, chooses from.
        with_real: as in `EvaluateConfig`. others: further arms.
    """
    plan: list[Training] = []

    @cache
    def subset(name: str, size: int, seed: int) -> Part:
        source = seen[name]
        return source.scenes, select(name, source.scenes, size, seed, source.features)

    for ipc, count in pairs.items():
        for seed in range(count):
            which = seed % len(inputs.sets)
            ours: Part = inputs.sets[which], inputs.prefix(which, ipc)
            arms: dict[str, tuple[Part, ...]] = {SET_ARM: (ours,)}
            for name in baselines:
                arms[name] = (subset(name, ipc, seed if find_method(name).uses_seed else 0),)
            arms |= {name: (part(ipc, seed),) for name, part in (others or {}).items()}
            for size in with_real:
                own, few = own_arm(size), subset("random", size, seed)
                arms |= {own: (few,), joint_arm(own): (ours, few)}
            for student, info in students.items():
                cost = float(info.multiply_adds)
                plan += [Training(arm, student, ipc, seed, parts, cost=cost) for arm, parts in arms.items()]
    return plan


def measure_arms(
    plan: Sequence[Training], real: tuple[Float32, Int64], extractor: Extractor
) -> tuple[tuple[SetMetrics, ...], list[str]]:
    """Compute set metrics for the first pair's images of the set and of every baseline except `full`, the reference.

    Args:
        real: features [n, D] of the real training images, and labels [n].

    Returns:
        The metrics, and notes on arms that are too small for them.
    """
    measured, notes = [], []
    for item in _first_pairs(plan):
        if item.images < FEWEST_IMAGES:
            notes.append(f"{item.arm}, IPC {item.ipc}: {item.images} images are too few for set metrics")
            continue
        data = item.data()
        if len(np.unique(data[1])) < len(item.classes):
            notes.append(f"{item.arm}, IPC {item.ipc}: a class has no image, so there are no set metrics")
            continue
        measured.append(set_metrics(item.arm, item.ipc, data, real, extractor, item.classes, seed=0))
    return tuple(measured), notes


def measure_detail(plan: Sequence[Training], test: SceneSet) -> tuple[SetDetail, ...]:
    """Measure the detail of the images that students are tested on, and of the same arms' images as `measure_arms`."""
    held_out = set_detail(HELD_OUT, None, (test.images, test.labels), test.classes)
    return held_out, *(set_detail(item.arm, item.ipc, item.data(), item.classes) for item in _first_pairs(plan))


def _first_pairs(plan: Sequence[Training]) -> list[Training]:
    """The first pair's training of the set and of every baseline except `full`, for each IPC."""

    def wanted(arm: str) -> bool:
        return arm != FULL_ARM and not is_own(arm) and not is_joint(arm)

    return list({(item.arm, item.ipc): item for item in plan if item.seed == 0 and wanted(item.arm)}.values())
