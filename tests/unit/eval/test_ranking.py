"""The scores of DD-Ranking: closed forms, and which results have them."""

import math
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("msgspec")
from dpd_eval.ranking import dd_ranking
from dpd_eval.recipe import load_recipe
from dpd_eval.report_tables import ranking_table
from dpd_eval.results import TEACHER, Evaluation
from dpd_runtime.errors import InputError
from tests.drawn_results import evaluation


def with_accuracies(recipe: str = "quick", **accuracies: float) -> Evaluation:
    """One student at one IPC; the names of arms with _ for a blank."""
    drawn = evaluation(baselines=("random", "full"), pairs={10: 2})
    first = drawn.arms[0]
    arms = tuple(
        replace(first, arm=name.replace("_", " "), oa_mean=value, oa_runs=(value, value))
        for name, value in accuracies.items()
    )
    return replace(drawn, arms=arms, labels="hard", recipe=load_recipe(recipe))


@pytest.mark.parametrize(
    ("accuracies", "score"),
    [
        ({"set": 0.85, "random": 0.75, "full": 0.95}, (1 - 1 / math.e) / (math.e - 1 / math.e)),  # both gains cancel
        ({"set": 1.0, "random": 0.0, "full": 1.0}, (math.sqrt(math.e) - 1 / math.e) / (math.e - 1 / math.e)),
        ({"set": 0.0, "random": 1.0, "full": 1.0}, 0.0),  # the worst
    ],
)
def test_the_label_robust_score(accuracies: dict[str, float], score: float) -> None:
    (found,) = dd_ranking(with_accuracies(**accuracies))
    assert found.label_robust == pytest.approx(score)
    assert found.recovery == pytest.approx(accuracies["full"] - accuracies["set"])
    assert found.improvement == pytest.approx(accuracies["set"] - accuracies["random"])
    assert (found.student, found.ipc, found.labels, found.augmentation_robust) == ("convnet", 10, "hard", None)


def test_a_teacher_lifts_set_and_random_images_alike() -> None:
    results = with_accuracies(set=0.8, random=0.7, full=0.95, taught_set=0.9, taught_random=0.88)
    hard, taught = dd_ranking(results)
    assert (hard.labels, taught.labels) == ("hard", "teacher")
    assert taught.recovery == pytest.approx(hard.recovery) == pytest.approx(0.15)
    assert taught.improvement == pytest.approx(0.02)
    assert taught.label_robust < hard.label_robust
    table = ranking_table(results)
    assert table is not None
    assert [[cell.text for cell in row][2:5] for row in table.rows] == [
        ["hard", "+15.00", "+10.00"],
        ["teacher", "+15.00", "+2.00"],
    ]


def test_the_augmentation_robust_score() -> None:
    results = with_accuracies(set=0.8, random=0.7, full=0.95)
    plain = with_accuracies("plain", set=0.6, random=0.3)
    (found,) = dd_ranking(results, plain)
    assert found.augmentation_robust == pytest.approx((math.exp(0.2) - math.exp(-1)) / (math.e - math.exp(-1)))
    with pytest.raises(InputError, match="recipe quick augments: give results of --recipe plain"):
        dd_ranking(results, results)
    with pytest.raises(InputError, match="recipe plain does not augment"):
        dd_ranking(plain, plain)
    others: dict[str, Any] = {"set 0": "0" * 64}
    for changed in ({"fingerprints": plain.fingerprints | others}, {"resolution": plain.resolution + 1}):
        with pytest.raises(InputError, match="of other images, of another size, of another teacher"):
            dd_ranking(results, replace(plain, **changed))
    longer = replace(plain, recipe=replace(plain.recipe, name="mine", steps=2000))
    with pytest.raises(InputError, match=r"^steps is 1000 in recipe quick and 2000 in mine: write a recipe file that"):
        dd_ranking(results, longer)
    with pytest.raises(InputError, match="have soft labels, the others hard"):
        dd_ranking(results, replace(plain, labels="soft"))


def test_weights_of_students_and_a_teacher_of_one_of_both_do_not_matter() -> None:
    results = with_accuracies(set=0.8, random=0.7, full=0.95)
    plain = with_accuracies("plain", set=0.6, random=0.3)
    (wanted,) = dd_ranking(results, plain)
    hf: dict[str, str] = results.fingerprints | {"hf:other": "1" * 64}
    assert dd_ranking(replace(results, fingerprints=hf | {TEACHER: "2" * 64}), plain) == (wanted,)
    for name in (TEACHER, "hf:other"):
        with pytest.raises(InputError, match="of another teacher or of other weights of a student"):
            dd_ranking(
                replace(results, fingerprints=hf | {name: "2" * 64}),
                replace(plain, fingerprints=hf | {name: "3" * 64}),
            )


@pytest.mark.parametrize("student", ["tune:hf:lite", "probe:hf:lite"])
def test_students_whose_augmentation_no_recipe_decides_have_no_such_score(student: str) -> None:
    def of(results: Evaluation) -> Evaluation:
        arms = tuple(replace(arm, student=student) for arm in results.arms)
        return replace(results, arms=arms, students={student: next(iter(results.students.values()))})

    results, plain = with_accuracies(set=0.8, random=0.7, full=0.95), with_accuracies("plain", set=0.6, random=0.3)
    (found,) = dd_ranking(of(results), of(plain))
    assert found.augmentation_robust is None


def test_results_without_it() -> None:
    assert dd_ranking(with_accuracies(set=0.8, random=0.7)) == ()
    assert ranking_table(with_accuracies(set=0.8, full=0.9)) is None
    with pytest.raises(InputError, match="--teacher, not --soft-labels"):
        dd_ranking(replace(with_accuracies(set=0.8, random=0.7, full=0.9), labels="soft"))
