"""Cosine coverage, diversity and agreement, and all metrics of drawn scenes with an extractor."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, recall_score
from sklearn.metrics.pairwise import cosine_similarity

from dpd_eval.extractors import Extractor
from dpd_eval.metrics import SetMetrics, class_agreement, intra_class_diversity, mean_max_cosine, set_metrics
from dpd_runtime.errors import InputError
from dpd_train.scenes import read_scenes
from tests.tiny import drawn_scenes


def labelled(seed, count, classes=3, dimensions=5):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, count - classes)])
    return rng.standard_normal((count, dimensions)).astype(np.float32), labels


@settings(max_examples=30, deadline=None)
@given(n=st.integers(3, 15), m=st.integers(3, 25), seed=st.integers(0, 1000), scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_mean_max_cosine_equals_scikit_learn_pair_by_pair(n, m, seed, scale):
    (ours, labels), (real, real_labels) = labelled(seed, n), labelled(seed + 5000, m)
    best = [cosine_similarity(ours[labels == real_labels[j]], real[j : j + 1]).max() for j in range(m)]
    expected = np.mean([np.mean([b for b, y in zip(best, real_labels, strict=True) if y == c]) for c in range(3)])
    found = mean_max_cosine(ours * np.float32(scale), labels, real, real_labels)
    assert found == pytest.approx(expected, abs=1e-6)


def test_mean_max_cosine_is_one_for_the_reference_itself_and_knows_classes():
    real, labels = labelled(0, 60)
    assert mean_max_cosine(real[::-1], labels[::-1], real, labels) == pytest.approx(1, abs=1e-12)
    assert mean_max_cosine(real, (labels + 1) % 3, real, labels) < 0.95  # the right images under wrong labels
    axes = np.eye(2, dtype=np.float32)
    assert mean_max_cosine(axes[:1], np.array([0]), axes, np.array([0, 0])) == pytest.approx(0.5)
    with pytest.raises(InputError, match="no image of class 1"):
        mean_max_cosine(axes[:1], np.array([0]), axes, np.array([0, 1]))


def test_the_size_of_a_class_does_not_weigh():
    """100 covered images of one class and one orthogonal image of another class give one half."""
    axes = np.eye(3, dtype=np.float32)
    real = np.concatenate([np.repeat(axes[:1], 100, axis=0), axes[1:2]])
    labels = np.array([0] * 100 + [1])
    assert mean_max_cosine(axes[[0, 2]], np.array([0, 1]), real, labels) == pytest.approx(0.5)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(6, 20), seed=st.integers(0, 1000))
def test_diversity_equals_the_mean_over_pairs(n, seed):
    features, labels = labelled(seed, n)
    means = []
    for label in range(3):
        members = features[labels == label]
        pairs = [
            1 - cosine_similarity(members[i : i + 1], members[j : j + 1])[0, 0]
            for i in range(len(members))
            for j in range(i)
        ]
        means += [np.mean(pairs)] if pairs else []
    assert intra_class_diversity(features, labels) == pytest.approx(np.mean(means), abs=1e-6)


def test_diversity_at_its_limits():
    one_of_each, classes = labelled(1, 3)
    copies, labels = np.repeat(one_of_each, 4, axis=0), np.repeat(classes, 4)
    assert intra_class_diversity(copies, labels) == pytest.approx(0, abs=1e-12)
    assert intra_class_diversity(one_of_each, classes) == 0  # no pair
    axes = np.eye(4, dtype=np.float32)
    assert intra_class_diversity(axes, np.zeros(4, np.int64)) == pytest.approx(1)
    assert intra_class_diversity(np.stack([axes[0], -axes[0]]), np.zeros(2, np.int64)) == pytest.approx(2)
    dead = np.zeros((3, 4), np.float32)  # features of a dead network: they must give neither NaN nor similarity
    assert intra_class_diversity(dead, np.zeros(3, np.int64)) == pytest.approx(1)


def test_agreement_equals_scikit_learn_and_compares_by_name():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 3, 200), rng.integers(0, 3, 200)
    found = class_agreement(labels, predicted, ("a", "b", "c"))
    assert found.overall == pytest.approx(accuracy_score(labels, predicted))
    np.testing.assert_allclose(list(found.per_class.values()), recall_score(labels, predicted, average=None))
    other_order = np.array([2, 0, 1])[predicted]
    assert class_agreement(labels, other_order, ("a", "b", "c"), ("b", "c", "a")) == found


def means_of_quarters(images):
    """float32 [n, 12]: mean colour of each quarter of the image."""
    n, h, w, _ = images.shape
    return images.reshape(n, 2, h // 2, 2, w // 2, 3).mean(axis=(2, 4)).reshape(n, 12).astype(np.float32)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return read_scenes(drawn_scenes(tmp_path_factory.mktemp("metrics"), per_class=24), part="all")


@pytest.fixture(scope="module")
def extractor(scenes):
    """Build a nearest-class-mean classifier on `means_of_quarters`; it needs no training."""
    features = means_of_quarters(scenes.images)
    centres = np.stack([features[scenes.labels == c].mean(axis=0) for c in range(len(scenes.classes))])

    def score(images):
        squared = ((means_of_quarters(images)[:, None] - centres) ** 2).sum(axis=2)
        return -(squared / 1000).astype(np.float32)  # soft enough that no two averaged probabilities tie

    return Extractor("quarters", "means of quarters", scenes.classes, means_of_quarters, score)


def measured(scenes, extractor, rows, labels=None, reference=slice(0, None, 2)):
    """Compute metrics of the rows, compared with every second image."""
    return set_metrics(
        "set",
        4,
        (scenes.images[rows], scenes.labels[rows] if labels is None else labels),
        (extractor.features(scenes.images[reference]), scenes.labels[reference]),
        extractor,
        scenes.classes,
        seed=0,
    )


def test_metrics_of_drawn_scenes_rank_sets_as_they_should(scenes, extractor):
    held_out = np.arange(1, len(scenes.labels), 2)  # 12 a class; the reference has the other 12
    good = measured(scenes, extractor, held_out)
    assert (good.arm, good.ipc, good.images, good.extractor) == ("set", 4, len(held_out), "means of quarters")
    assert abs(good.kid) < 3 * good.kid_std
    assert good.teacher_agreement is not None
    assert good.per_class_agreement is not None
    assert set(good.per_class_agreement) == set(scenes.classes)
    assert np.mean(list(good.per_class_agreement.values())) == pytest.approx(good.teacher_agreement)
    assert good.reference_diversity == pytest.approx(good.intra_class_diversity, rel=0.5)

    copied = measured(scenes, extractor, np.repeat(held_out[::12], 12))  # one image of each class, twelve times
    assert copied.intra_class_diversity == pytest.approx(0, abs=1e-9)
    assert copied.recall == 0
    assert copied.coverage < good.coverage
    assert copied.mean_max_cosine < good.mean_max_cosine

    mislabelled = measured(scenes, extractor, held_out, labels=(scenes.labels[held_out] + 1) % len(scenes.classes))
    assert mislabelled.teacher_agreement < 0.5 * good.teacher_agreement
    assert mislabelled.mean_max_cosine < good.mean_max_cosine
    assert mislabelled.kid == good.kid  # over the whole set, whatever the labels

    one_class = measured(scenes, extractor, np.flatnonzero(scenes.labels == 0), reference=scenes.labels == 0)
    assert one_class.precision == one_class.recall == one_class.coverage == 1


def test_an_extractor_without_these_classes_says_nothing_of_agreement(scenes, extractor):
    rows = np.arange(1, len(scenes.labels), 2)
    for blind in (replace(extractor, classes=None, score=None), replace(extractor, classes=("cat", "dog"))):
        found = measured(scenes, blind, rows)
        assert found.teacher_agreement is found.per_class_agreement is None
        assert found.kid == measured(scenes, extractor, rows).kid


def test_the_extractor_may_know_the_classes_in_another_order(scenes, extractor):
    rows = np.arange(1, len(scenes.labels), 2)
    turned = replace(
        extractor, classes=scenes.classes[::-1], score=lambda images: extractor.score(images)[:, ::-1].copy()
    )
    assert measured(scenes, turned, rows) == measured(scenes, extractor, rows)


def test_metrics_are_plain_values(scenes, extractor):
    found = measured(scenes, extractor, np.arange(1, len(scenes.labels), 2))
    content = asdict(found)
    assert list(content)[:4] == ["arm", "ipc", "images", "extractor"]
    kinds = {type(value) for value in content.values()} | set(map(type, content["per_class_agreement"].values()))
    assert kinds <= {str, int, float, dict}  # numpy's own would not go into JSON
    assert SetMetrics(**json.loads(json.dumps(content))) == found


def test_sets_that_cannot_be_measured_are_refused(scenes, extractor):
    with pytest.raises(InputError, match="arm 'set' at IPC 4 has 5 images: set metrics need at least 6"):
        measured(scenes, extractor, np.arange(5))
    broken = replace(extractor, embed=lambda images: np.full((len(images), 12), np.nan, np.float32))
    with pytest.raises(InputError, match="not finite"):
        measured(scenes, broken, np.arange(1, len(scenes.labels), 2))
    narrow = replace(extractor, embed=lambda images: means_of_quarters(images)[:, :3])
    real = (means_of_quarters(scenes.images), scenes.labels)
    with pytest.raises(InputError, match="one extractor for both"):
        set_metrics("set", 24, (scenes.images, scenes.labels), real, narrow, scenes.classes, 0)
