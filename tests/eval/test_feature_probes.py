"""What benchmarks/features.py rests on: probes and networks from scratch choose by folds alone."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from benchmarks import feature_probes
from benchmarks.feature_probes import Scratch, choose_scratch, folds, probe, scaled, scratch
from dpd_train.classifiers.network import ResNetConfig
from dpd_train.classifiers.training import Labelled, TrainedClassifier
from dpd_train.pretrain.swimdiff.views import random_views

SHAPE = ResNetConfig(num_classes=9, widths=(8, 16), blocks=(1, 1))


def clouds(each: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points around three corners, and the number of each one's corner."""
    labels = np.repeat(np.arange(3), each)
    points = np.eye(3)[labels] + noise * np.random.default_rng(seed).normal(size=(len(labels), 3))
    return points.astype(np.float32), labels


def pictures(each: int) -> Labelled:
    labels = torch.arange(3).repeat_interleave(each)
    return torch.rand(len(labels), 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1, labels


def test_features_are_scaled_by_the_training_part_alone() -> None:
    train, held = np.random.default_rng(0).normal(5, 3, (2, 50, 4)).astype(np.float32)
    known, asked = scaled(train, held)
    np.testing.assert_allclose(known.mean(axis=0), 0, atol=1e-5)
    assert np.square(known).mean() == pytest.approx(1, rel=1e-5)
    np.testing.assert_allclose(asked, (held - train.mean(axis=0)) / (train - train.mean(axis=0)).std(), rtol=1e-4)


def test_a_probe_is_the_best_of_the_folds_on_all_labels() -> None:
    (known, labels), (asked, truth) = clouds(8, 0.6, 0), clouds(40, 0.6, 1)
    means = []
    for strength in feature_probes.STRENGTHS:
        scores = [
            LogisticRegression(C=strength).fit(known[fit], labels[fit]).score(known[out], labels[out])
            for fit, out in StratifiedKFold(3).split(known, labels)
        ]
        means.append(np.mean(scores))
    best = feature_probes.STRENGTHS[int(np.argmax(means))]
    expected = LogisticRegression(C=best).fit(known, labels).score(asked, truth)
    assert probe(known, labels, asked, truth) == pytest.approx(expected)
    one, alone = clouds(1, 0.01, 2)
    assert folds(alone) is None
    assert probe(one, alone, asked, truth) > 0.6


def test_settings_from_scratch_are_chosen_on_folds_of_the_labelled_images(monkeypatch: pytest.MonkeyPatch) -> None:
    known, calls = pictures(4), []

    def accuracy(fit: Labelled, asked: Labelled, shape: ResNetConfig, setting: Scratch, seed: int) -> float:
        calls.append((setting, fit[1].tolist(), asked[1].tolist(), torch.cat([fit[0], asked[0]])))
        return {1: 0.5, 2: 0.7, 3: 0.7}[setting.steps]

    monkeypatch.setattr(feature_probes, "scratch", accuracy)
    settings = [Scratch(steps, True) for steps in (1, 2, 3)]
    assert choose_scratch(known, SHAPE, settings, 0) == settings[1], "the first of the best"
    assert len(calls) == 9
    expected = [(len(fit), len(out)) for fit, out in StratifiedKFold(3).split(np.zeros(12), known[1].numpy())]
    for number, (_, fit, asked, pixels) in enumerate(calls):
        assert (len(fit), len(asked)) == expected[number % 3]
        assert set(asked) == {0, 1, 2}
        assert sorted(pixels.sum(dim=(1, 2, 3)).tolist()) == sorted(known[0].sum(dim=(1, 2, 3)).tolist())
    calls.clear()
    assert choose_scratch(pictures(1), SHAPE, settings, 0) == settings[0]
    assert calls == [], "one label per class: nothing is left to choose by"


@pytest.mark.parametrize("strong", [True, False])
def test_a_network_from_scratch_has_the_encoders_views_and_the_chosen_settings(
    strong: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []
    train = feature_probes.train_classifier

    def spy(*given: Any, **more: Any) -> TrainedClassifier:
        seen.append({"shape": given[3], "training": given[4], **more})
        return train(*given, **more)

    monkeypatch.setattr(feature_probes, "train_classifier", spy)
    before = torch.get_rng_state()
    first, again = (scratch(pictures(3), pictures(2), SHAPE, Scratch(2, strong), 1) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert first == again
    assert seen[0]["noise"] is (random_views if strong else None)
    assert seen[0]["training"].steps == 2
    assert seen[0]["training"].validate_every == 2, "the last step, not the best"
    assert (seen[0]["shape"].widths, seen[0]["shape"].num_classes) == (SHAPE.widths, 3)
