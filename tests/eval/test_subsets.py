import numpy as np
import pytest

from dpd_eval.subsets import random_subset
from dpd_runtime.errors import DataError, InputError

LABELS = np.repeat([0, 1, 2], [40, 25, 30])[np.random.default_rng(0).permutation(95)]


def test_balanced_distinct_and_of_the_right_class():
    rows = random_subset(LABELS, 20, seed=5)
    assert len(set(rows.tolist())) == 60
    np.testing.assert_array_equal(LABELS[rows], np.repeat([0, 1, 2], 20))


def test_same_seed_same_rows_other_seed_other_rows():
    np.testing.assert_array_equal(random_subset(LABELS, 10, 1), random_subset(LABELS, 10, 1))
    assert set(random_subset(LABELS, 10, 1).tolist()) != set(random_subset(LABELS, 10, 2).tolist())


def test_smaller_ipc_is_a_prefix():
    small, large = random_subset(LABELS, 5, 7).reshape(3, 5), random_subset(LABELS, 20, 7).reshape(3, 20)
    np.testing.assert_array_equal(small, large[:, :5])


def test_every_image_is_as_likely():
    """Over 600 seeds each of 25 members of class 1 is drawn 240 ± 5 standard deviations (12) times at IPC 10."""
    counts = np.zeros(len(LABELS))
    for seed in range(600):
        counts[random_subset(LABELS, 10, seed)] += 1
    members = counts[LABELS == 1]
    assert members.sum() == 6000
    assert abs(members - 240).max() < 60


def test_too_few_images_names_class_and_count():
    with pytest.raises(DataError, match=r"class River has 25 real images, --ipc asks for 26: give --ipc 25 or less"):
        random_subset(LABELS, 26, 0, ("Forest", "River", "Sea"))
    with pytest.raises(DataError, match="label 1 has 25"):
        random_subset(LABELS, 26, 0)
    with pytest.raises(InputError, match="ipc is 0"):
        random_subset(LABELS, 0, 0)
