"""Options of reading and the arithmetic of the stretch, without any file."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dpd_runtime.bands import Band, float32_holds
from dpd_runtime.errors import InputError
from dpd_runtime.text import printable
from dpd_train.rasters import Raster, Rendering, stretched
from dpd_train.reading import PLAIN, Reading, parse_reading

finite = st.floats(-1e6, 1e6, width=32)


@pytest.mark.parametrize(
    ("bands", "stretch", "expected"),
    [
        (None, None, PLAIN),
        ("4,3,2", None, Reading((4, 3, 2))),
        ("8", "1,99.5", Reading((8,), percentiles=(1, 99.5))),
        ("4, 3, 2", "0:3000", Reading((4, 3, 2), limits=((0, 3000),))),
        (None, "0:3000,-1:2.5e3,5:6", Reading(limits=((0, 3000), (-1, 2500), (5, 6)))),
        ("B4, B3,B2", None, Reading(("B4", "B3", "B2"))),
        ("4,B3", None, Reading(("4", "B3"))),
        ("all", "2,98", Reading("all", percentiles=(2, 98))),
        ("1,2", "0:1,2:3", Reading((1, 2), limits=((0, 1), (2, 3)))),
        ("VV", "dB:-25:5", Reading(("VV",), limits=((-25, 5),), decibels=True)),
        (None, "db:-25:5.5", Reading(limits=((-25, 5.5),), decibels=True)),
    ],
)
def test_options_are_understood(bands: str | None, stretch: str | None, expected: Reading) -> None:
    assert parse_reading(bands, stretch) == expected
    assert expected.plain == (bands is None and stretch is None)


@pytest.mark.parametrize(
    ("bands", "stretch", "message"),
    [
        ("0,1,2", None, "the first band is 1"),
        ("B4,,B2", None, "--bands B4,,B2: give band numbers such as 4,3,2 .*, names such as B4,B3,B2, or all"),
        ("1,2,3,2", None, "bands 1,2,3,2: band 2 stands there twice; give each band once"),
        ("VV,VV", None, "bands VV,VV: band VV stands there twice"),
        (",".join(map(str, range(1, 66))), None, "are 65, at most 64 are carried; leave some out"),
        (None, "dB:-25:5,0:1", "stretch dB:-25:5,0:1: give one dB:LOW:HIGH for all bands"),
        (None, "dB:5:-25", "stretch dB:5:-25: LOW must be below HIGH"),
        (None, "dB:-400:5", "give decibels between -300 and 300"),
        (None, "dB:2,98", "--stretch dB:2,98: give two percentiles .*, or decibels such as dB:-25:5"),
        ("1,2,4,3", "0:1,0:1,0:1", "give one LOW:HIGH, or one for each of the bands"),
        ("", None, "--bands : give band numbers"),
        (None, "98,2", "stretch 98,2: give two percentiles"),
        (None, "2,101", "0 ≤ low < high ≤ 100"),
        (None, "nan,98", "give two percentiles"),
        (None, "2", "--stretch 2: give two percentiles such as 2,98, or pixel values such as 0:3000"),
        (None, "2,98,3", "--stretch 2,98,3"),
        (None, "0:3000,5", "--stretch 0:3000,5"),
        (None, "low:high", "--stretch low:high"),
        (None, "3000:0", "LOW must be below HIGH"),
        (None, "0:inf", "both finite"),
        ("4", "0:1,0:1,0:1", "give one LOW:HIGH, or one for each of the bands"),
        (None, "0:1,0:1", "give one LOW:HIGH"),
    ],
)
def test_options_without_sense_are_refused(bands: str | None, stretch: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_reading(bands, stretch)


@pytest.mark.parametrize(
    ("bands", "carries"),
    [(None, False), ("4", False), ("4,3,2", False), ("VV", False), ("all", True), ("1,2", True), ("B4,B3,B2,B8", True)],
)
def test_one_band_and_three_are_a_picture_and_others_are_carried(bands: str | None, carries: bool) -> None:
    assert parse_reading(bands).carries is carries


def test_percentiles_and_limits_exclude_each_other() -> None:
    with pytest.raises(InputError, match="give one of them"):
        Reading(percentiles=(2, 98), limits=((0, 1),))
    with pytest.raises(InputError, match="decibels need limits"):
        Reading(percentiles=(2, 98), decibels=True)


@given(
    values=st.lists(st.one_of(finite, st.sampled_from([np.nan, np.inf, -np.inf])), min_size=4, max_size=4),
    low=finite,
    width=st.floats(1e-2, 1e6),
)
def test_stretch_is_a_clipped_line_and_no_data_is_black(values: list[float], low: float, width: float) -> None:
    band = np.array(values, np.float32).reshape(1, 2, 2)
    limits = (float(low), float(low) + width)
    pixels = stretched(Raster(band, np.isfinite(band[0])), (limits,))
    expected = [
        0 if not np.isfinite(v) else round(255 * min(1.0, max(0.0, (float(v) - limits[0]) / (limits[1] - limits[0]))))
        for v in band.ravel().tolist()
    ]
    assert pixels.shape == (2, 2, 3)
    assert pixels[..., 0].ravel().tolist() == expected
    assert (pixels == pixels[..., :1]).all()


def test_each_band_has_its_own_limits() -> None:
    values = np.full((3, 1, 1), 50, np.uint16)
    pixels = stretched(Raster(values, np.ones((1, 1), bool)), ((0, 100), (50, 60), (0, 50)))
    assert pixels[0, 0].tolist() == [128, 0, 255]


@given(limits=st.lists(st.tuples(finite, st.floats(1e-3, 1e6)), min_size=3, max_size=3), content=st.binary())
def test_the_recorded_stretch_read_again_is_the_same(limits: list[tuple[float, float]], content: bytes) -> None:
    pairs = tuple((low, low + width) for low, width in limits)
    assume(all(float32_holds(*pair) for pair in pairs))  # others are refused, as a site could not tell them apart
    settled = Rendering((4, 3, 2), pairs, ("uint16", 3), (2, 98), 7)
    record = json.loads(json.dumps(settled.record()))
    again = parse_reading(",".join(map(str, record["bands"])), record["stretch"])
    assert (again.bands, again.limits) == (settled.bands, settled.limits)
    assert Rendering(settled.bands, again.limits).identity(content) == settled.identity(content)


def test_identity_follows_bytes_bands_and_limits() -> None:
    every_bands, every_limits = (None, (1, 2, 3), (3, 2, 1)), (None, ((0.0, 1.0),), ((0.0, 2.0),))
    renderings = [Rendering(bands, limits) for bands in every_bands for limits in every_limits]
    identities = {rendering.identity(content) for rendering in renderings for content in (b"", b"a")}
    assert len(identities) == 18


def test_identity_and_record_of_rgb_are_as_they_were_and_others_differ() -> None:
    """Hashes in runs and caches of old must stay, so this one is written down."""
    rgb = Rendering((4,), ((-25.0, 5.0),))
    assert rgb.identity(b"a") == "ceaeab0874d6e2484084768e0f87beac64d271b89941fcfde05351b34db1ce27"
    assert set(rgb.record()) == {"bands", "stretch", "percentiles", "sampled_images", "pixel_type"}
    decibels = replace(rgb, decibels=True)
    carried = replace(rgb, carried=(Band("VV", -25, 5),))
    both = replace(decibels, carried=(Band("VV", -25, 5, decibels=True),))
    assert len({one.identity(b"a") for one in (rgb, decibels, carried, both)}) == 4
    assert decibels.record()["stretch"] == "dB:-25.0:5.0"
    assert parse_reading("4", decibels.record()["stretch"]) == Reading((4,), limits=((-25, 5),), decibels=True)
    assert both.record()["carried"] == [both.carried[0].to_dict()]
    json.dumps(both.record())


@given(text=st.text(st.characters(), max_size=20))
def test_names_in_messages_are_one_harmless_line(text: str) -> None:
    shown = printable(text)
    shown.encode()
    assert len(shown.splitlines()) <= 1
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    if text.isprintable() and text.isascii():
        assert shown == text
