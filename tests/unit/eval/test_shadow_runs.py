"""The likelihood-ratio attack of `recipes/lira.py`, beside what normal scores of a known shift give."""

import sys
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

RECIPES = Path(__file__).parents[3] / "recipes"
pytestmark = pytest.mark.skipif(not RECIPES.is_dir(), reason="the recipes are not beside the tests")
NORMAL = NormalDist()
LABELS = np.arange(4000) % 4


@pytest.fixture
def lira(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(RECIPES))
    import lira

    yield lira
    for name in ("lira", "result_file", "scene_lists"):  # common names, which other tests may mean otherwise
        sys.modules.pop(name, None)


def simulated(lira: Any, shift: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores = difficulty of the image + offset of the class in the run + shift of members + noise of deviation 1."""
    rng, members = np.random.default_rng(seed), lira.balanced_parts(LABELS, seed)
    difficulty, offsets = rng.normal(0, 3, len(LABELS)), rng.normal(0, 5, (len(members), 4))
    return difficulty + offsets[:, LABELS] + shift * members + rng.normal(size=members.shape), members


def test_each_image_is_in_half_of_the_runs_and_each_run_has_half_of_each_class(lira: Any) -> None:
    labels = np.repeat([0, 1, 2], (40, 7, 100))
    members = lira.balanced_parts(labels, 3)
    assert np.all(members.sum(axis=0) == 2)
    for label, count in enumerate((40, 7, 100)):
        inside = members[:, labels == label].sum(axis=1)
        assert np.all(np.abs(inside - count / 2) <= (0 if count % 2 == 0 else 0.5))
    assert not np.array_equal(members, lira.balanced_parts(labels, 4))


def test_a_known_shift_is_seen_as_often_as_four_runs_allow(lira: Any) -> None:
    """The attack knows one score with the image and one without: differences have twice the variance of a score."""
    scores, members = simulated(lira, 3.0)
    attacks = lira.attacks(scores, members, LABELS)
    known = lira.summary(attacks["off-line"], members, ~members)
    assert known["tpr"] == pytest.approx(1 - NORMAL.cdf(NORMAL.inv_cdf(0.99) - 3.0 / 2**0.5), abs=0.06)
    low, high = known["interval"]
    assert low < known["tpr"] < high
    ratio = lira.summary(attacks["likelihood ratio"], members, ~members)
    assert min(ratio["aucs"]) > 0.9
    assert ratio["tpr"] > 0.35
    plain = lira.summary(scores, members, ~members)
    assert plain["tpr"] < 0.1 < low, "difficulty hides members from a score that is not calibrated"


def test_nothing_is_found_where_members_score_as_others_do(lira: Any) -> None:
    """An attack that counted the other runs with an image would be right without looking at a score."""
    for seed in range(3):
        scores, members = simulated(lira, 0.0, seed)
        for found in lira.attacks(scores, members, LABELS).values():
            known = lira.summary(found, members, ~members)
            assert known["interval"][0] <= 0.012
            assert known["aucs"] == pytest.approx([0.5] * 4, abs=0.03)
