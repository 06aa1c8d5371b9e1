"""The two scores of DD-Ranking (Li et al. 2025, arXiv 2505.13300), from results of `dpd evaluate`. Loads no PyTorch.

Both ask what the images give beyond random real ones, and lie in 0 … 1. Their λ is 0.5. The label-robust score is 0.27
where the improvement equals the recovery, the augmentation-robust one where there is no improvement.
"""

import math
from dataclasses import dataclass, replace

from dpd_eval.pretrained import PROBE, TUNE
from dpd_eval.recipe import AUGMENTATION
from dpd_eval.results import FULL_ARM, SET_ARM, Evaluation, Setting, taught_arm
from dpd_runtime.errors import InputError

_WEIGHT = 0.5
RANDOM = "random"


@dataclass(frozen=True)
class Score:
    """The scores of one student at one IPC; accuracies are shares.

    Args:
        labels: of the set and the random images that are compared: hard, or teacher.
        recovery: hard label recovery: what all real images reach beyond the set, both with hard labels; less is better.
        improvement: of the set over as many random real images, under the same labels.
        label_robust: the label-robust score, of both.
        augmentation_robust: the augmentation-robust score, of the improvement with and without augmentation; None
            without results of the latter, and of students whose recipe does not decide it: a probe never augments, and
            `tune:` always does.
    """

    student: str
    ipc: int
    labels: str
    recovery: float
    improvement: float
    label_robust: float
    augmentation_robust: float | None = None


def dd_ranking(results: Evaluation, plain: Evaluation | None = None) -> tuple[Score, ...]:
    """The scores of each student and IPC whose arms have them: the set, random and full, all with hard labels.

    Args:
        results: of `dpd evaluate --baselines random,full`.
        plain: of the same images, in the same size, with a recipe without augmentation (`--recipe plain`).

    Raises:
        InputError: the labels of `results` are soft, where the score needs hard ones beside them, as a teacher's arms
            have them; `plain` is of other images, sizes, labels, teachers or weights, or its recipe augments or differs
            by something else; or the recipe of `results` does not augment.
    """
    if results.labels == "soft":
        raise InputError("the scores of DD-Ranking need hard labels too: evaluate with --teacher, not --soft-labels")
    scores = [
        score
        for setting in results.settings()
        for ours, other, labels in (
            (SET_ARM, RANDOM, "hard"),
            (taught_arm(SET_ARM), taught_arm(RANDOM), "teacher"),
        )
        if (score := _label_robust(results, setting, ours, other, labels)) is not None
    ]
    if plain is None:
        return tuple(scores)
    _check_plain(results, plain)
    return tuple(_with_plain(score, plain) for score in scores)


def _label_robust(results: Evaluation, setting: Setting, ours: str, other: str, labels: str) -> Score | None:
    arms = [results.arm(name, setting) for name in (SET_ARM, FULL_ARM, ours, other)]
    hard, full, judged, random = (None if arm is None else arm.oa_mean for arm in arms)
    if hard is None or full is None or judged is None or random is None:
        return None
    recovery, improvement = full - hard, judged - random
    score = _scaled(_WEIGHT * improvement - (1 - _WEIGHT) * recovery)
    return Score(setting.student, setting.ipc, labels, recovery, improvement, score)


def _check_plain(results: Evaluation, plain: Evaluation) -> None:
    """Check that `plain` differs from `results` by the augmentation alone."""
    known = [
        (results.fingerprints[name], plain.fingerprints[name])
        for name in results.fingerprints.keys() & plain.fingerprints.keys()
        if not name.startswith((PROBE, TUNE))  # whose score rests on one result
    ]
    alike = all(one.split(maxsplit=1)[0] == other.split(maxsplit=1)[0] for one, other in known)  # but for versions
    if not alike or _compared(plain) != _compared(results):
        raise InputError(
            "the results without augmentation are of other images, of another size, of another teacher or of other "
            "weights of a student: evaluate the same set and DATA with the same options"
        )
    if plain.labels != results.labels:
        raise InputError(f"the results without augmentation have {plain.labels} labels, the others {results.labels}")
    if plain.recipe.augments:
        raise InputError(f"recipe {plain.recipe.name} augments: give results of --recipe plain")
    if not results.recipe.augments:
        raise InputError(f"recipe {results.recipe.name} does not augment: give results of another recipe first")
    one, other = results.recipe.to_dict(), plain.recipe.to_dict()
    differ = [key for key in one if key not in ("name", *AUGMENTATION) and one[key] != other[key]]
    if differ:
        raise InputError(
            f"{differ[0]} is {one[differ[0]]} in recipe {results.recipe.name} and {other[differ[0]]} in "
            f"{plain.recipe.name}: write a recipe file that differs by {', '.join(AUGMENTATION)} alone"
        )


def _compared(results: Evaluation) -> dict[str, object]:
    """Names of the images, and their size; not the students' weights, nor the teacher, which not all results have."""
    kept = ("train", "test", "set ", "data card")
    images = {name: value for name, value in results.fingerprints.items() if name.startswith(kept)}
    return {**images, "resolution": results.resolution}


def _with_plain(score: Score, plain: Evaluation) -> Score:
    if score.student.startswith((PROBE, TUNE)):
        return score
    setting = Setting(score.student, score.ipc)
    names = (SET_ARM, RANDOM) if score.labels == "hard" else (taught_arm(SET_ARM), taught_arm(RANDOM))
    ours, random = (plain.arm(name, setting) for name in names)
    if ours is None or random is None:
        return score
    improvement = ours.oa_mean - random.oa_mean
    return replace(score, augmentation_robust=_scaled(_WEIGHT * score.improvement + (1 - _WEIGHT) * improvement))


def _scaled(gain: float) -> float:
    """Of a gain of −1 … 1, its place in 0 … 1 (ibid., section 3)."""
    return (math.exp(gain) - math.exp(-1)) / (math.e - math.exp(-1))
