"""Selection methods: closed cases, brute force and properties; what all of them share."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dpd_eval.selection import METHODS as OWN
from dpd_eval.selection import find_method, random_subset, select
from dpd_runtime.errors import DataError, InputError
from dpd_train.doors import offered_names
from dpd_train.scene_set import SceneSet

METHODS = {name: find_method(name) for name in (*OWN, *offered_names("dpd.selections"))}
LABELS = np.repeat([0, 1, 2], [40, 25, 30])[np.random.default_rng(0).permutation(95)]
FEATURES = np.random.default_rng(1).normal(1, 1, (95, 6)).astype(np.float32)
WITH_IPC = [name for name, method in METHODS.items() if method.uses_ipc]
NESTED = ["random", "herding", "k-center", "tdds", "foreground"]
# whole numbers: ties and distances are exact
POINTS = st.integers(2, 8).flatmap(lambda n: arrays(np.float32, (n, 2), elements=st.integers(-9, 9)))


def scenes(labels: np.ndarray) -> SceneSet:
    images = np.zeros((len(labels), 1, 1, 3), np.uint8)
    return SceneSet(("Forest", "River", "Sea")[: labels.max() + 1], images, labels, (), ())


def pick(method: str, features: np.ndarray, count: int) -> list[int]:
    """Of one class, through the public door."""
    return select(method, scenes(np.zeros(len(features), np.int64)), count, 0, features.astype(np.float32)).tolist()


@pytest.mark.parametrize("method", WITH_IPC)
def test_balanced_distinct_sorted_by_class(method):
    rows = select(method, scenes(LABELS), 20, 5, FEATURES)
    assert rows.dtype == np.int64
    assert len(set(rows.tolist())) == 60
    np.testing.assert_array_equal(LABELS[rows], np.repeat([0, 1, 2], 20))


@pytest.mark.parametrize("method", METHODS)
def test_the_whole_class_can_be_asked_for(method):
    labels = np.repeat([0, 1], 12)
    assert sorted(select(method, scenes(labels), 12, 0, FEATURES[:24]).tolist()) == list(range(24))


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_matters_where_the_method_says_so(method):
    first, again, other = (set(select(method, scenes(LABELS), 10, seed, FEATURES).tolist()) for seed in (1, 1, 2))
    assert first == again
    assert (first != other) == METHODS[method].uses_seed


@pytest.mark.parametrize("method", NESTED)
def test_smaller_ipc_is_a_prefix(method):
    small, large = (select(method, scenes(LABELS), ipc, 7, FEATURES).reshape(3, ipc) for ipc in (5, 20))
    np.testing.assert_array_equal(small, large[:, :5])


@pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name].sees != "nothing"])
def test_a_class_is_chosen_from_by_itself(method):
    """Other classes' features do not matter, only those of the class."""
    changed = np.where((LABELS == 1)[:, None], FEATURES, 100 - FEATURES)
    ours, theirs = (select(method, scenes(LABELS), 8, 0, f).reshape(3, 8) for f in (FEATURES, changed))
    np.testing.assert_array_equal(ours[1], theirs[1])


# random


def test_random_rows_stay_those_of_committed_results():
    """Drawn with the code that made the figures before selection was a package."""
    labels = np.array([2, 0, 1, 0, 2, 1, 1, 0, 2, 0, 1, 2])
    assert random_subset(labels, 2, 5).tolist() == [9, 3, 6, 2, 0, 4]
    assert random_subset(labels, 3, 7).tolist() == [1, 7, 3, 6, 2, 10, 11, 8, 4]
    assert select("random", scenes(labels), 4, 0).tolist() == [7, 1, 3, 9, 10, 2, 6, 5, 8, 4, 0, 11]


def test_random_every_image_is_as_likely():
    """Over 600 seeds each of 25 members of class 1 is drawn 240 ± 5 standard deviations (12) times at IPC 10."""
    counts = np.zeros(len(LABELS))
    for seed in range(600):
        counts[random_subset(LABELS, 10, seed)] += 1
    members = counts[LABELS == 1]
    assert members.sum() == 6000
    assert abs(members - 240).max() < 60


# herding


def test_herding_by_hand():
    cross = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])
    assert pick("herding", cross, 4) == [0, 2, 1, 3]  # an image and its opposite have the mean 0 of all four
    three_to_one = np.array([[1, 0], [1, 0], [1, 0], [0, 1]])
    assert pick("herding", three_to_one, 4) == [0, 1, 3, 2]  # (2/3, 1/3) is nearer to (3/4, 1/4) than (1, 0)


def test_herding_looks_at_directions():
    lengths = np.random.default_rng(3).uniform(0.5, 2, (95, 1)).astype(np.float32)
    ours, scaled = (select("herding", scenes(LABELS), 5, 0, f) for f in (FEATURES, lengths * FEATURES))
    np.testing.assert_array_equal(ours, scaled)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12))
def test_herding_takes_the_best_next_image(seed, n):
    features = np.random.default_rng(seed).normal(size=(n, 3))
    unit = features.astype(np.float32).astype(np.float64)
    unit /= np.sqrt((unit**2).sum(axis=1, keepdims=True))
    chosen = pick("herding", features, n)
    for k in range(n):
        gaps = {row: np.linalg.norm(unit[[*chosen[:k], row]].mean(axis=0) - unit.mean(axis=0)) for row in chosen[k:]}
        assert gaps[chosen[k]] <= min(gaps.values()) + 1e-9


@pytest.mark.parametrize("seed", range(4))
def test_herding_is_nearer_to_the_mean_than_random(seed):
    rng = np.random.default_rng(seed)
    features = rng.normal(0.3, 1, (80, 8))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    chosen = pick("herding", features, 40)
    for k in (1, 2, 5, 10, 20, 40):
        drawn = [rng.permutation(80)[:k] for _ in range(200)]
        average = np.mean([np.linalg.norm(unit[rows].mean(axis=0) - unit.mean(axis=0)) for rows in drawn])
        assert np.linalg.norm(unit[chosen[:k]].mean(axis=0) - unit.mean(axis=0)) < average


# k-center


def radius(points: np.ndarray, centres: list[int]) -> float:
    """Largest distance to the nearest centre."""
    gaps = np.linalg.norm(points[:, None].astype(float) - points[None, list(centres)].astype(float), axis=-1)
    return float(gaps.min(axis=1).max())


def test_k_center_on_a_line():
    assert pick("k-center", np.arange(11)[:, None], 4) == [5, 0, 10, 2]


def test_k_center_takes_the_outlier():
    points = np.random.default_rng(0).normal(size=(50, 2))
    points[31] = (40, 40)
    assert 31 in pick("k-center", points, 3)[:2]


@settings(max_examples=80, deadline=None)
@given(POINTS, st.integers(1, 4))
def test_k_center_is_within_twice_the_best_radius(points, count):
    count = min(count, len(points))
    chosen = pick("k-center", points, count)
    assert len(set(chosen)) == count
    best = min(radius(points, centres) for centres in combinations(range(len(points)), count))
    assert radius(points, chosen) <= 2 * best + 1e-9


def test_the_bound_above_can_fail():
    """Control: the first images of two far groups of which one comes second."""
    points = np.array([[0, 0], [1, 0], [50, 0], [51, 0]])
    assert radius(points, [0, 1]) > 2 * min(radius(points, pair) for pair in combinations(range(4), 2))
    assert radius(points, pick("k-center", points, 2)) <= 2


# k-means


def test_k_means_takes_the_middle_of_each_cluster_large_ones_first():
    rng = np.random.default_rng(4)
    sizes = {0: 7, 1: 20, 2: 12, 3: 4}
    centres = 30 * np.eye(4)
    cluster = rng.permutation(np.repeat(list(sizes), list(sizes.values())))
    points = centres[cluster] + rng.normal(size=(43, 4))
    chosen = pick("k-means", points, 4)
    assert cluster[chosen].tolist() == [1, 2, 0, 3]
    for row in chosen:
        members = np.flatnonzero(cluster == cluster[row])
        gaps = np.linalg.norm(points[members] - points[members].mean(axis=0), axis=1)
        assert row == members[gaps.argmin()]


@pytest.mark.filterwarnings("error")
def test_k_means_with_fewer_different_images_than_asked_for():
    points = np.array([[0, 0], [0, 0], [0, 0], [5, 5], [5, 5], [9, 0]])
    chosen = pick("k-means", points, 5)
    assert chosen[:3] == [0, 3, 5]
    assert len(set(chosen)) == 5


# full and errors


def test_full_takes_all_and_knows_no_ipc():
    for ipc in (0, 3, 1000):
        rows = select("full", scenes(LABELS), ipc, 0)
        np.testing.assert_array_equal(np.sort(rows), np.arange(95))
        assert (np.diff(LABELS[rows]) >= 0).all()


@pytest.mark.parametrize("method", WITH_IPC)
def test_too_few_images_names_class_and_count(method):
    with pytest.raises(DataError, match=r"class River has 25 real images, --ipc asks for 26: give --ipc 25 or less"):
        select(method, scenes(LABELS), 26, 0, FEATURES)
    with pytest.raises(InputError, match="ipc is 0"):
        select(method, scenes(LABELS), 0, 0, FEATURES)


def test_too_few_images_without_class_names():
    with pytest.raises(DataError, match="label 1 has 25"):
        random_subset(LABELS, 26, 0)
    with pytest.raises(InputError, match="ipc is 0"):
        random_subset(LABELS, 0, 0)


def test_wrong_arguments():
    with pytest.raises(InputError, match=r"'best'.*random, herding, k-center, k-means, full, foreground, tdds"):
        select("best", scenes(LABELS), 5, 0)
    for features in (None, FEATURES[:-1], FEATURES[:, 0]):
        with pytest.raises(InputError, match=r"herding needs features \[95, D\]"):
            select("herding", scenes(LABELS), 5, 0, features)
    with pytest.raises(DataError, match=r"k-means.*not finite"):
        select("k-means", scenes(LABELS), 5, 0, np.where(FEATURES > 2, np.nan, FEATURES))
