"""Scenes as NumPy arrays: the same pixels as a GeoTIFF's of the same values, or a reason."""

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from dpd_train import rasters as module
from dpd_train.rasters import Raster, read_array
from dpd_train.reading import HeldOut, parse_reading
from dpd_train.scene_set import SceneSet
from dpd_train.scenes import open_scenes, read_scenes
from tests.painted import reasons

rasterio = pytest.importorskip("rasterio", reason="rasterio (extra geo) is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
EVERY = HeldOut(val_per_class=0, split="names")


def packed(*values: npt.NDArray[Any], allow_pickle: bool = False) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, *values, allow_pickle=allow_pickle)
    return file.getvalue()


def scenes(root: Path, suffix: str, count: int, height: int = 8, width: int = 10) -> Path:
    """Two classes of three random images with `count` bands."""
    generator = np.random.default_rng(count)
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for number in range(3):
            values = generator.integers(0, 9000, (count, height, width)).astype(np.uint16)
            path = root / name / f"{number}{suffix}"
            if suffix == ".npz":
                path.write_bytes(packed(np.moveaxis(values, 0, -1) if number % 2 else values))
                continue
            shape = {"height": height, "width": width, "count": count, "dtype": "uint16"}
            with rasterio.open(path, "w", driver="GTiff", **shape) as file:
                file.write(values)
    return root


def read(root: Path, bands: str | None, stretch: str | None = None) -> SceneSet:
    reading = parse_reading(bands, stretch)
    return read_scenes(root, part="all", resolution=8, held_out=EVERY, reading=reading)


@pytest.mark.parametrize(("count", "bands"), [(1, "all"), (2, "all"), (4, "4,1"), (6, "3,2,1"), (7, "all")])
@pytest.mark.parametrize("stretch", [None, "0:10000", "dB:10:40"])
def test_arrays_are_read_as_geotiffs_are(count: int, bands: str, stretch: str | None, tmp_path: Path) -> None:
    found, wanted = (read(scenes(tmp_path / suffix, suffix, count), bands, stretch) for suffix in (".npz", ".tif"))
    np.testing.assert_array_equal(found.images, wanted.images)
    assert found.bands == wanted.bands
    assert open_scenes(tmp_path / ".npz").sizes == open_scenes(tmp_path / ".tif").sizes == {(10, 8): 6}


@given(
    arrays.arrays(
        st.sampled_from([np.uint8, np.int32, np.float64]),
        st.tuples(st.integers(5, 9), st.integers(5, 9), st.integers(1, 4)),
        elements=st.integers(0, 100),
    )
)
def test_bands_come_first_or_last_and_the_middle_is_taken(values: npt.NDArray[Any]) -> None:
    first, last = read_array(packed(np.moveaxis(values, -1, 0)), "all"), read_array(packed(values), "all")
    assert isinstance(first, Raster)
    assert isinstance(last, Raster)
    height, width, count = values.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    np.testing.assert_array_equal(np.moveaxis(last.values, 0, -1), values[top : top + side, left : left + side])
    np.testing.assert_array_equal(first.values, last.values)
    assert last.kind == (str(values.dtype), count)


def test_an_array_without_bands_is_one_band_and_nan_is_no_data() -> None:
    values = np.arange(16.0).reshape(4, 4)
    values[1, 2] = np.nan
    found = read_array(packed(values), "all")
    assert isinstance(found, Raster)
    assert found.values.shape == (1, 4, 4)
    assert np.argwhere(~found.valid).tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("content", "bands", "said"),
    [
        (packed(np.zeros((4, 4, 2)), np.zeros(3)), "all", "holds 2 arrays; save the image as the only one"),
        (packed(np.zeros(4)), "all", r"an array of shape \[4\], not \[H, W\]"),
        (packed(np.zeros((4, 4, 2, 2))), "all", "an array of shape"),
        (packed(np.zeros((4, 0, 2))), "all", "an array of shape"),
        (packed(np.zeros((4, 4, 2), np.complex64)), "all", "complex64 pixels have no brightness"),
        (packed(np.full((4, 4), np.nan)), "all", "no pixel has data"),
        (packed(np.array([[{}]], object), allow_pickle=True), "all", "damaged, or no .npz file|object"),
        (packed(np.zeros((4, 4, 2))), (1, 3), "has 2 bands, no band 3"),
        (packed(np.zeros((4, 4, 2))), ("B2",), "no band called 'B2'; none of its 2 bands has a name: give --bands"),
        (packed(np.zeros((4, 4, 2))), None, "an array, .*: say with --bands which"),
        (packed(np.zeros((70, 70, 65))), "all", "has 65 bands, at most 64 are carried"),
        (b"PK\x03\x04 cut short", "all", "damaged, or no .npz file of NumPy"),
        (packed(np.zeros((4, 4, 2)))[:-30], "all", "damaged, or no .npz file of NumPy"),
    ],
)
def test_what_is_no_image_gives_a_reason(content: bytes, bands: Any, said: str) -> None:
    found = read_array(content, bands)
    assert isinstance(found, str)
    assert re.search(said, found), found


def test_other_files_in_a_zip_and_huge_arrays_are_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "no array")
    assert read_array(file.getvalue(), "all") == module.DAMAGED
    monkeypatch.setattr(module, "MOST_BYTES", 1000)
    assert read_array(packed(np.zeros((20, 20, 2))), "all") == "0 MB of pixels, more than 0; cut it into tiles"


def test_without_bands_every_array_is_set_aside_with_the_way_out(tmp_path: Path) -> None:
    root = scenes(tmp_path / "scenes", ".npz", 4)
    for name in ("a", "b"):  # so that something is left
        for number in range(2):
            Image.new("RGB", (8, 8), (9, number, 3)).save(root / name / f"{number}.png")
    found = read(root, None)
    assert len(found.labels) == 4
    assert {*reasons(found).values()} == {module.WAY_OUT}
