"""`fit` and `select` know RGB alone, and say so for images that keep other bands."""

from pathlib import Path

import pytest

from dpd_eval.inputs import open_fit
from dpd_eval.options import FitConfig
from dpd_eval.selection import select_set
from dpd_runtime.errors import InputError
from dpd_train.reading import parse_reading
from dpd_train.scenes import open_scenes
from tests.banded import bands_of, write_distilled, write_real


def test_fit_says_that_it_trains_on_rgb(tmp_path: Path) -> None:
    distilled = write_distilled(tmp_path / "set", bands_of(4), 2, 0)
    with pytest.raises(InputError, match=r"set has 4 bands \(B1, B2, B3, B4\), and dpd fit trains on RGB: train a net"):
        open_fit(distilled, FitConfig())
    real = write_real(tmp_path / "real", 4, 4, 0)
    with pytest.raises(InputError, match="--bands all: dpd fit trains on RGB; give three bands, such as --bands 4,3,2"):
        open_fit(real, FitConfig(bands="all"), real)
    with pytest.raises(InputError, match="--bands all: dpd fit trains on RGB; give three bands, such as --bands 4,3,2"):
        open_fit(real, FitConfig(), open_scenes(real, FitConfig(bands="all")))
    open_fit(real, FitConfig(bands="3,2,1"), real)


def test_select_says_that_it_writes_rgb(tmp_path: Path) -> None:
    real = write_real(tmp_path / "real", 4, 4, 0)
    with pytest.raises(InputError, match="--bands: dpd select writes RGB, and these are not three bands; give three"):
        select_set(real, tmp_path / "out", method="random", ipc=1, reading=parse_reading("all"))
    assert not (tmp_path / "out").exists()
    reading = parse_reading("3,2,1", "0:2550")
    assert select_set(real, tmp_path / "out", method="random", ipc=1, reading=reading).images == 3
