"""Detail of images whose spectrum, contrast or kurtosis is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from dpd_eval.metrics import LUMA, high_pass, octave_power, set_detail

SIDE = 64
ONE = ("only",)


def grey_images(levels: np.ndarray) -> np.ndarray:
    """uint8 [n, S, S, 3] of grey levels [n, S, S]."""
    return np.repeat(levels.round().clip(0, 255).astype(np.uint8)[..., None], 3, axis=-1)


def waves(cycles: int) -> np.ndarray:
    """One image with so many waves of amplitude 100, whose variance is 5,000."""
    place = np.arange(SIDE) / SIDE
    return 127 + 100 * np.broadcast_to(np.sin(2 * np.pi * cycles * place), (1, SIDE, SIDE))


@given(arrays_of.arrays(np.uint8, st.tuples(st.just(3), st.just(16), st.just(16))))
@settings(max_examples=30, deadline=None)
def test_octaves_add_up_to_the_variance(levels: np.ndarray) -> None:
    """Parseval's theorem."""
    found = octave_power(levels.astype(np.float64))
    np.testing.assert_allclose(found.sum(axis=1), levels.var(axis=(1, 2)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("cycles", "octave"), [(1, 0), (2, 1), (3, 1), (4, 2), (15, 3), (16, 4), (31, 4)])
def test_a_wave_lies_in_the_octave_of_its_frequency(cycles: int, octave: int) -> None:
    power = octave_power(waves(cycles))[0]
    assert power[octave] == pytest.approx(5000, rel=1e-6)
    assert np.delete(power, octave) == pytest.approx(0, abs=1e-6)


def test_fine_contrast_of_a_wave_is_what_the_blur_leaves_of_it() -> None:
    """A binomial blur keeps cos²(π f) of a wave of f cycles a pixel."""
    found = set_detail("set", 1, (grey_images(waves(16)), np.zeros(1, np.int64)), ONE)
    lost = 1 - np.cos(np.pi * 16 / SIDE) ** 2
    assert found.fine_contrast["only"] == pytest.approx(lost * np.sqrt(5000), rel=0.02)
    assert found.octaves[4] == pytest.approx(5000, rel=0.02)


def test_kurtosis_is_that_of_the_noise_and_rises_with_sparse_lines() -> None:
    generator = np.random.default_rng(0)
    noise = generator.normal(127, 20, (20, SIDE, SIDE))
    lines = np.full((20, SIDE, SIDE), 80.0) + generator.normal(0, 2, (20, SIDE, SIDE))
    lines[:, :, 30] = 200
    images = grey_images(np.concatenate([noise, lines]))
    found = set_detail("set", 20, (images, np.repeat([0, 1], 20)), ("field", "road"))
    assert found.kurtosis["field"] == pytest.approx(3, abs=0.1)  # that of Gaussian noise
    assert found.kurtosis["road"] > 10
    assert found.images == 40


def test_a_blur_takes_contrast_and_the_highest_octave() -> None:
    levels = np.random.default_rng(0).normal(127, 30, (10, SIDE, SIDE)).clip(0, 255)
    labels = np.zeros(10, np.int64)
    sharp, blurred = (
        set_detail("set", 10, (grey_images(kept), labels), ONE) for kept in (levels, levels - high_pass(levels))
    )
    assert blurred.fine_contrast["only"] < 0.5 * sharp.fine_contrast["only"]
    assert blurred.octaves[-1] < 0.5 * sharp.octaves[-1]
    assert blurred.octaves[0] > 0.9 * sharp.octaves[0]


def test_a_plain_image_has_no_detail_and_no_error() -> None:
    found = set_detail("set", 1, (np.full((1, 8, 8, 3), 7, np.uint8), np.zeros(1, np.int64)), ONE)
    assert found.octaves == pytest.approx((0, 0))
    assert (found.fine_contrast["only"], found.kurtosis["only"]) == pytest.approx((0, 3))


def test_many_images_are_measured_in_parts_and_grey_is_luma() -> None:
    images = np.random.default_rng(0).integers(0, 256, (501, 8, 8, 3), dtype=np.uint8)
    found = set_detail("set", None, (images, np.zeros(501, np.int64)), ONE)
    assert sum(found.octaves) == pytest.approx((images @ LUMA).var(axis=(1, 2)).mean())
