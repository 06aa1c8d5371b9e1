"""One look at a data set: what is usable, how to read the rest, and which scenes are in two parts."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpd_runtime.errors import DataError
from dpd_train.reading import parse_reading
from dpd_train.scenes import PER_CLASS, look_at, open_scenes


def noise(seed: int, side: int = 48) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))


def written(folder: Path, name: str, count: int, first: int = 0) -> None:
    (folder / name).mkdir(parents=True)
    for i in range(count):
        Image.fromarray(noise(first + i)).save(folder / name / f"{i:03d}.png")


def test_a_sample_of_each_class_is_decoded_and_what_is_damaged_is_named(tmp_path: Path) -> None:
    written(tmp_path, "a", PER_CLASS + 30)
    written(tmp_path, "b", 4, 100)
    (tmp_path / "b" / "003.png").write_bytes(b"no image")
    look = look_at(open_scenes(tmp_path))
    assert look.counts == {"all": {"a": PER_CLASS + 30, "b": 4}}
    assert (look.sample.images, look.sample.usable) == (PER_CLASS + 4, PER_CLASS + 3)
    (damaged,) = look.sample.set_aside
    assert damaged.path == "b/003.png"
    assert "not readable" in damaged.reason
    assert look.suggestion is None
    assert look.all_bands == ""
    assert open_scenes(tmp_path).shared() == {}
    assert look.remarks()[0].startswith("1 of 24 images of a sample will be set aside, first b/003.png: not readable")


def test_scenes_in_two_parts_are_counted(tmp_path: Path) -> None:
    for part, first in (("train", 0), ("test", 50)):
        for number, name in enumerate(("a", "b")):
            written(tmp_path / part, name, 5, 1000 * number + first)
    same = Image.open(tmp_path / "train" / "a" / "000.png")
    same.save(tmp_path / "test" / "a" / "again.png", compress_level=1)  # the same scene in other bytes
    same.rotate(90).save(tmp_path / "test" / "b" / "turned.png")
    assert open_scenes(tmp_path).shared() == {("train", "test"): 2}


@pytest.mark.parametrize(("bands", "usual"), [(4, "3,2,1"), (13, "4,3,2")])
def test_bands_that_need_a_choice_get_a_suggestion_that_works(tmp_path: Path, bands: int, usual: str) -> None:
    rasterio = pytest.importorskip("rasterio")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(3):
            place = tmp_path / name / f"{i}.tif"
            profile = {"driver": "GTiff", "height": 16, "width": 16, "count": bands, "dtype": "uint16"}
            profile["transform"] = rasterio.Affine.translation(1, 1)
            with rasterio.open(place, "w", **profile) as file:
                file.write(rng.integers(0, 3000, (bands, 16, 16), dtype=np.uint16))
    look = look_at(open_scenes(tmp_path))
    assert look.sample.usable == 0
    assert look.suggestion is not None
    options, sample = look.suggestion
    assert options == f"--bands {usual} --stretch 2,98"
    assert sample.usable == sample.images == 6
    assert look.remarks()[-1] == "--bands all carries all bands instead, in a codes-only bundle"
    assert look_at(open_scenes(tmp_path, reading=parse_reading("all"))).sample.usable == 6
    read = look_at(open_scenes(tmp_path, reading=parse_reading(usual, "2,98")))
    assert (read.sample.usable, read.suggestion) == (6, None)


def test_one_odd_file_is_no_reason_to_ask_for_rasterio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, "a", 3)
    written(tmp_path, "b", 3, 100)
    Image.fromarray(np.full((8, 8), 1000, np.uint16)).save(tmp_path / "b" / "deep.png")
    monkeypatch.setattr("dpd_train.rasters.find_spec", lambda name: None)
    look = look_at(open_scenes(tmp_path))
    assert look.suggestion is None
    assert "pass --stretch 2,98" in look.sample.set_aside[0].reason


def test_where_nothing_can_be_read_the_first_reason_is_said(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"none of 2 images can be used, first a/x\.png: not readable as any of"):
        look_at(open_scenes(tmp_path))
