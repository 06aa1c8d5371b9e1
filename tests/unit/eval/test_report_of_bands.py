"""The report of a set of bands: people see false colour, and the page says of which bands."""

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpd_eval.records import described, shown
from dpd_eval.report import write_report
from dpd_eval.report_inputs import read_set
from dpd_runtime.bands import SENTINEL2, Band
from dpd_runtime.errors import DataError
from tests.banded import CLASSES, bands_of, scenes, write_distilled

BANDS = tuple(Band(name, 0.0, 4000.0) for name in SENTINEL2)


def test_the_page_shows_false_colour_and_says_which_bands(tmp_path: Path) -> None:
    folder = write_distilled(tmp_path / "set", BANDS, 2, 0)
    write_report([folder], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "13 bands, shown by B4, B3 and B2 as red, green and blue" in " ".join(page.split())
    sheets = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(sheets) == len(CLASSES)
    drawn = scenes(13, 2).images[0]
    tile = np.asarray(Image.open(io.BytesIO(base64.b64decode(sheets[0]))))[:16, :16]
    assert np.abs(tile.astype(int) - drawn[..., [3, 2, 1]]).mean() < 8, "JPEG at quality 92 of noise"
    assert np.abs(tile.astype(int) - drawn[..., [1, 2, 3]]).mean() > 12, "other bands are other noise"


@pytest.mark.parametrize(("count", "said"), [(1, "B1 in grey"), (2, "B1 in grey"), (4, "B3, B2 and B1 as red, green")])
def test_few_bands_are_shown_as_they_can_be(count: int, said: str, tmp_path: Path) -> None:
    bands = tuple(replace(band, decibels=count == 1, low=-25.0, high=5.0) for band in bands_of(count))
    record = read_set(write_distilled(tmp_path / "set", bands, 2, 0), "set")
    assert shown(bands).startswith(said)
    assert record.shown.endswith(shown(bands))
    assert all(sheet.picture is not None and sheet.shown == 2 for sheet in record.classes)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    folder = write_distilled(tmp_path / "set", bands_of(4), 2, 0)
    (folder / "Dark" / "Dark_00000.tif").write_bytes(b"II*\0")
    with pytest.raises(DataError, match=r"Dark_00000.tif: cannot be read as an image"):
        read_set(folder, "set")


def test_bands_are_counted_and_named() -> None:
    assert described(()) == "RGB images"
    assert described(bands_of(1)) == "1 band (B1)"
    assert described(BANDS) == "13 bands (B1, B2, B3, B4, …)"
