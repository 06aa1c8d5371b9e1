"""Extractors of images of any number of bands: those trained here see every band, those of RGB say no by name."""

from pathlib import Path

import numpy as np
import pytest

from dpd_eval import extractor_choice
from dpd_eval.extractor_choice import build_extractor, check_extractor_bands
from dpd_eval.extractors import own_extractor, small_pixels
from dpd_eval.metrics import set_metrics
from dpd_runtime.errors import InputError
from tests.banded import CLASSES, COUNTS, scenes


@pytest.mark.full
@pytest.mark.parametrize("count", COUNTS)
def test_own_is_trained_on_every_band(count: int, tmp_path: Path) -> None:
    train, fresh = scenes(count, 12), scenes(count, 5, seed=1)
    made = own_extractor(train, tmp_path, steps=40)
    assert made.features(fresh.images).shape == (15, 128)
    found = made.classify(fresh.images)
    assert found is not None
    assert (found == fresh.labels).mean() > 0.9, "the classes differ in the last band alone"
    again = own_extractor(train, tmp_path, steps=40, progress=lambda done, total: pytest.fail("it was trained again"))
    np.testing.assert_array_equal(again.features(fresh.images), made.features(fresh.images))


@pytest.mark.parametrize("count", COUNTS)
def test_untrained_is_standardised_and_sees_every_band(count: int) -> None:
    train = scenes(count, 12)
    made = build_extractor("untrained", train)
    features = made.features(train.images)
    assert features.shape == (36, 2 * (32 + 64))
    np.testing.assert_allclose(features.mean(axis=0), 0, atol=1e-3)
    for band in range(count):
        changed = train.images.copy()
        changed[..., band] = 255 - changed[..., band]
        assert np.abs(made.features(changed) - features).max() > 0.1


@pytest.mark.parametrize("count", COUNTS)
def test_set_metrics_of_bands(count: int) -> None:
    """The real images are all of the reference, and half of them lie in fewer of its places."""
    train = scenes(count, 12)
    extractor = build_extractor("untrained", train)
    reference = extractor.features(train.images), train.labels
    rows = np.flatnonzero(np.arange(36) % 2)
    whole, half = (
        set_metrics("set", 6, (train.images[some], train.labels[some]), reference, extractor, CLASSES, 0)
        for some in (np.arange(36), rows)
    )
    assert (whole.precision, whole.recall, whole.coverage) == (1, 1, 1)
    assert whole.mean_max_cosine == pytest.approx(1, abs=1e-6)
    assert half.precision == 1
    assert half.mean_max_cosine < 1 - 1e-3
    assert np.isfinite([half.kid, half.kid_std, half.density, half.coverage, half.intra_class_diversity]).all()


def test_larger_images_are_reduced_band_by_band() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 80, 80, 4), dtype=np.uint8)
    reduced = small_pixels(images)
    assert reduced.shape == (3, 4, 64, 64)
    for band in range(4):
        alone = small_pixels(np.repeat(images[..., band, None], 3, axis=3))
        np.testing.assert_array_equal(reduced[:, band], alone[:, 0])


@pytest.mark.parametrize("name", ["hf:microsoft/resnet-18", "mdfl", "swimdiff:folder"])
def test_extractors_of_rgb_say_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extractor_choice, "_builder", lambda *_: pytest.fail("it was built"))
    with pytest.raises(InputError, match=rf"--extractor {name}: sees images of 3 bands, these have 4; give own, untr"):
        build_extractor(name, scenes(4, 2))
    check_extractor_bands(name, scenes(3, 2))
