"""What the eight bits of a band stand for, and which bands people see."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dpd_runtime.bands import SENTINEL2, Band, physical, picture, shown_bands


def named(*names: str) -> tuple[Band, ...]:
    return tuple(Band(name, 0, 1, SENTINEL2.get(name, 0.0)) for name in names)


@given(
    low=st.floats(-1e6, 1e6),
    width=st.floats(1e-3, 1e6),
    values=st.lists(st.integers(0, 255), min_size=1, max_size=30),
)
def test_physical_values_lie_on_a_line_and_eight_bits_come_back(low: float, width: float, values: list[int]) -> None:
    band = Band("B8", low, low + width)
    pixels = np.array(values, np.uint8).reshape(1, -1, 1)
    found = physical(pixels, [band])
    assert found.dtype == np.float32
    scale = max(abs(low), abs(low + width))
    np.testing.assert_allclose(found[0, :, 0], [low + width * v / 255 for v in values], rtol=1e-6, atol=1e-6 * scale)
    if width > 1e-3 * scale:  # else float32 has fewer steps between the limits than eight bits
        again = np.rint(255 * (found.astype(np.float64) - low) / width)
        np.testing.assert_array_equal(again.astype(np.uint8), pixels)


def test_decibels_become_backscatter_and_the_bits_come_back() -> None:
    band = Band("VV", -25, 5, decibels=True)
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    found = physical(pixels, [band])
    assert found[0, 0, 0] == pytest.approx(10**-2.5)
    assert found[-1, -1, 0] == pytest.approx(10**0.5)
    again = 255 * (10 * np.log10(found.astype(np.float64)) + 25) / 30
    np.testing.assert_array_equal(np.rint(again), pixels)


@given(
    low=st.floats() | st.integers(-(10**400), 10**400),
    high=st.floats() | st.integers(-(10**400), 10**400),
    decibels=st.booleans(),
)
@example(low=-3.4e38, high=3.4e38, decibels=False)
@example(low=0, high=3.5e38, decibels=False)  # infinite in float32
@example(low=-300, high=300, decibels=True)
@example(low=0, high=10**400, decibels=False)
@example(low=1.0, high=1.0 + 1e-12, decibels=False)  # one number in float32
def test_limits_that_are_accepted_give_finite_values_that_differ(low: float, high: float, decibels: bool) -> None:
    band = Band("B8", low, high, decibels=decibels)
    if band.fault():
        return
    found = physical(np.array([[[0], [255]]], np.uint8), [band])
    assert np.isfinite(found).all()
    assert decibels or found[0, 0, 0] < found[0, 1, 0]


@pytest.mark.parametrize(("low", "high"), [(0, 3.5e38), (-1e39, 0), (0, 10**400), (1.0, 1.0 + 1e-12), (0, 1e-60)])
def test_limits_that_float32_does_not_hold(low: float, high: float) -> None:
    assert "float32 cannot hold them as two numbers" in Band("B8", low, high).fault()


def test_bands_are_mixed_by_nothing() -> None:
    bands = (Band("VV", -20, 0, decibels=True), Band("angle", 30, 46, unit="degree"))
    found = physical(np.full((2, 2, 2), 255, np.uint8), bands)
    np.testing.assert_allclose(found, np.broadcast_to([1, 46], (2, 2, 2)))


@pytest.mark.parametrize(
    ("bands", "shown"),
    [
        (named(*SENTINEL2), (3, 2, 1)),  # by wavelength
        (named("B8", "B2", "B3", "B4"), (3, 2, 1)),
        (named("blue", "Green", "RED", "nir"), (2, 1, 0)),
        (named(*map(str, range(1, 14))), (3, 2, 1)),  # of so many bands they are Sentinel-2's
        (named("B8", "B11", "B12"), (2, 1, 0)),
        (named("1", "2", "3", "4"), (2, 1, 0)),
        (named("VV", "VH"), (0, 0, 0)),
        (named("B4"), (0, 0, 0)),
    ],
)
def test_red_green_and_blue_are_shown_where_they_are_known(
    bands: tuple[Band, ...], shown: tuple[int, int, int]
) -> None:
    assert shown_bands(bands) == shown


def test_a_picture_has_three_of_the_bands_and_rgb_is_its_own() -> None:
    images = np.arange(2 * 3 * 3 * 4, dtype=np.uint8).reshape(2, 3, 3, 4)
    seen = picture(images, named("B8", "B2", "B3", "B4"))
    np.testing.assert_array_equal(seen, np.stack([images[..., 3], images[..., 2], images[..., 1]], axis=-1))
    rgb = images[..., :3]
    assert picture(rgb, ()) is rgb


@pytest.mark.parametrize(
    ("band", "said"),
    [
        (Band("", 0, 1), "name has 0 characters"),
        (Band("B" * 65, 0, 1), "name has 65 characters"),
        (Band("B1", 1, 1), "limits are 1 and 1"),
        (Band("B1", 0, float("inf")), "both finite"),
        (Band("VV", -25, 5000, decibels=True), "must lie in -300"),
        (Band("B1", 0, 1, -0.4), "wavelength is -0.4"),
    ],
)
def test_a_band_that_makes_no_sense_says_why(band: Band, said: str) -> None:
    assert said in band.fault()
    assert not Band("B1", 0, 1, 0.443, "reflectance").fault()
