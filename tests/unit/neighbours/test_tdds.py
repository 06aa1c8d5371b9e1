"""TDDS scores in closed cases, by a plain loop, and of a real training with copies among the images."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpd_neighbours import tdds
from dpd_neighbours.tdds import best_rows, dual_depth_scores, score_images
from dpd_runtime.errors import InputError
from dpd_train.samples import samples_of
from dpd_train.scene_set import to_float
from dpd_train.scenes import read_scenes
from dpd_train.train import train
from tests.tiny import CONFIG, drawn_scenes, tiny_base


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real training, of few steps in place of 1,000."""
    monkeypatch.setattr(tdds, "LEAST_STEPS", 2)


def by_loops(probabilities: np.ndarray, window: int, decay: float) -> list[float]:
    """The definition, one image, window and class at a time."""
    looks, images, classes = probabilities.shape
    scores = []
    for i in range(images):
        total = 0.0
        for start in range(looks - window + 1):
            parts = []
            for t in range(start, start + window - 1):
                new, old = probabilities[t + 1, i], probabilities[t, i]
                parts.append(sum(abs(new[c] * np.log((new[c] + 1e-8) / (old[c] + 1e-8))) for c in range(classes)))
            mean = sum(parts) / len(parts)
            spread = sum((part - mean) ** 2 for part in parts) ** 0.5
            total += spread * decay * (1 - decay) ** (looks - window - start)
        scores.append(total)
    return scores


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 6), st.integers(0, 3), st.floats(0.05, 0.95))
def test_scores_are_the_definition(seed: int, window: int, more: int, decay: float) -> None:
    values = np.random.default_rng(seed).dirichlet(np.ones(4), (window + more, 5))
    np.testing.assert_allclose(dual_depth_scores(values, window, decay), by_loops(values, window, decay), rtol=1e-9)


def test_known_at_once_and_never_learnt_score_nothing_and_learnt_in_the_end_most() -> None:
    """True-class probabilities of a copy known from the start, a wrong label never learnt, an image learnt in even
    steps of log p, and one learnt at once in the last window."""
    even = np.exp(np.linspace(np.log(0.05), np.log(0.9), 6))
    truth = np.stack([np.full(6, 0.99), np.full(6, 0.02), even, np.array([0.05] * 4 + [0.9] * 2)], axis=1)
    known, never, learnt, leapt = dual_depth_scores(np.stack([truth, 1 - truth], axis=2), window=4)
    assert known == pytest.approx(0, abs=1e-12)
    assert never == pytest.approx(0, abs=1e-12)
    assert 0 < learnt < leapt


def test_fewer_looks_than_a_window_are_refused() -> None:
    with pytest.raises(ValueError, match="4 snapshots in windows of 5"):
        dual_depth_scores(np.full((4, 2, 2), 0.5), window=5)


def test_the_best_of_each_class_stay_and_two_at_least() -> None:
    labels = np.array([0, 1, 0, 1, 0, 0, 1, 0])
    scores = np.array([5.0, 1.0, 4.0, 2.0, 5.0, 1.0, 3.0, 0.0])
    assert best_rows(scores, labels, 0.4).tolist() == [0, 2, 3, 4, 6]  # 3 of 5, 2 of 3
    assert best_rows(scores, labels, 0.99).tolist() == [0, 3, 4, 6]


@pytest.mark.full
def test_copies_share_their_score_and_the_seed_decides(tmp_path: Path, few_steps: None) -> None:
    scenes = read_scenes(drawn_scenes(tmp_path / "scenes", per_class=6), part="all")
    images, labels = to_float(torch.from_numpy(scenes.images)), torch.from_numpy(scenes.labels)
    both = torch.cat([images, images[:5]]), torch.cat([labels, labels[:5]])
    first, again, other = (score_images(both, len(scenes.classes), seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    np.testing.assert_allclose(first[-5:], first[:5], rtol=1e-3)
    assert np.isfinite(first).all()
    assert len(np.unique(first[:-5])) > len(first) / 2


@pytest.mark.parametrize("text", ["tdds", "tdds:", "tdds:0", "tdds:1", "tdds:nan", "el2n:0.5", "0.5"])
def test_an_unusable_sample_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--samples"):
        samples_of(text)


@pytest.mark.full
def test_a_pruned_run_is_trained_on_what_stays(tmp_path: Path, few_steps: None) -> None:
    scenes = drawn_scenes(tmp_path / "scenes")
    config = replace(CONFIG, base=str(tiny_base(tmp_path / "base")), samples="tdds:0.5")
    record = train(scenes, tmp_path / "run", config, cache=tmp_path / "cache")
    assert record["images_after_pruning"] == 6 * 4  # of 8 a class
    assert record["data"]["images"] == 6 * 8  # an audit looks for each of them
    assert record["config"]["samples"] == "tdds:0.5"


@pytest.mark.full
def test_an_unfinished_run_goes_on_with_the_images_that_it_kept(tmp_path: Path, few_steps: None) -> None:
    """Which these are hangs on scores in a cache, and on the machine that computes them anew."""
    scenes, run = drawn_scenes(tmp_path / "scenes"), tmp_path / "run"
    config = replace(CONFIG, base=str(tiny_base(tmp_path / "base")), samples="tdds:0.5")
    train(scenes, run, config, cache=tmp_path / "cache", max_minutes=0)
    stored = run / "checkpoints" / "config.json"
    before = json.loads(stored.read_text())
    assert len(before["data"]["samples"]) == 64
    stored.write_text(json.dumps(before | {"data": before["data"] | {"samples": "0" * 64}}))
    with pytest.raises(InputError, match="the unfinished run had other data"):
        train(scenes, run, config, cache=tmp_path / "cache", resume=True)
    stored.write_text(json.dumps(before))
    record = train(scenes, run, config, cache=tmp_path / "cache", resume=True)
    assert record["images_after_pruning"] == 6 * 4
