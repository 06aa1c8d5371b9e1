"""Scenes of any bands, carried as they are: against numpy on the arrays that were written."""

import io
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from dpd_runtime.bands import Band, physical
from dpd_runtime.errors import DataError
from dpd_runtime.images import read_square
from dpd_train.rasters import Rendering, read_raster
from dpd_train.reading import HeldOut, Reading, parse_reading
from dpd_train.scene_set import Part, SceneSet, fingerprint, look_over, to_float
from dpd_train.scenes import look_at, open_scenes, read_scenes
from dpd_train.symmetry import EXACT, near_duplicates, near_groups, structure
from tests.painted import reasons

rasterio = pytest.importorskip("rasterio", reason="rasterio (extra geo) is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
Values = npt.NDArray[Any]
PARTS: tuple[Part, ...] = ("train", "val")
EVERY = HeldOut(val_per_class=0, split="names")


def write(path: Path, bands: Values, names: Sequence[str | None] = (), units: Sequence[str] = (), **more: Any) -> Path:
    """A GeoTIFF as GDAL writes it. bands [n, H, W]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = bands.shape
    shape = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": bands.dtype}
    with rasterio.open(path, "w", **shape, **more) as file:
        file.write(bands)
        for number, name in enumerate(names, start=1):
            if name is not None:
                file.set_band_description(number, name)
        for number, unit in enumerate(units, start=1):
            file.set_band_unit(number, unit)
    return path


def drawn(root: Path, count: int, dtype: str = "uint16", side: int = 8, **more: Any) -> dict[str, Values]:
    """Two classes of `count` bands, and what was written, by path."""
    rng, written = np.random.default_rng(count), {}
    for name in ("Alpha", "Beta"):
        for index in range(3):
            bands = rng.integers(1, 200, (count, side, side)) + 7 * np.arange(count)[:, None, None] % 50
            written[f"{name}/{index}.tif"] = bands.astype(dtype)
            write(root / name / f"{index}.tif", written[f"{name}/{index}.tif"], **more)
    return written


def read(root: Path, bands: str | None = "all", stretch: str | None = None) -> SceneSet:
    return read_scenes(root, part="all", reading=parse_reading(bands, stretch))


def expected(values: Values, low: Values | float, high: Values | float) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, N] of values [N, H, W]."""
    levels: Values = 255 * np.clip((values.transpose(1, 2, 0) - low) / (high - low), 0, 1)
    return np.rint(levels).astype(np.uint8)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 12, 13])
def test_every_band_is_stretched_by_its_own_percentiles(count: int, tmp_path: Path) -> None:
    written = drawn(tmp_path, count)
    scenes = read(tmp_path)
    every = np.stack(list(written.values()))
    low, high = (np.percentile(every, share, axis=(0, 2, 3)) for share in (2, 98))
    assert scenes.images.shape == (6, 8, 8, count)
    for image, path in zip(scenes.images, scenes.paths, strict=True):
        np.testing.assert_allclose(image.astype(int), expected(written[path], low, high), atol=1)  # six digits
    assert [band.name for band in scenes.bands] == [str(number) for number in range(1, count + 1)]
    np.testing.assert_allclose([(band.low, band.high) for band in scenes.bands], np.transpose([low, high]), rtol=1e-5)
    assert not any(band.fault() for band in scenes.bands)
    assert look_at(open_scenes(tmp_path, reading=Reading("all"))).bands == scenes.bands
    assert look_at(open_scenes(tmp_path, reading=Reading((1,)))).bands == ()
    assert scenes.gaps == (False,) * 6
    assert look_over({"train": scenes}).messages() == []


@pytest.mark.parametrize("count", [1, 2, 4, 13])
def test_eight_bits_stay_as_they_are(count: int, tmp_path: Path) -> None:
    """GDAL calls the fourth of four bands alpha; as one of many it is data, where it is 0 too."""
    written = drawn(tmp_path, count, "uint8")
    holed = written["Alpha/0.tif"]
    holed[-1, 2] = 0
    write(tmp_path / "Alpha" / "0.tif", holed)
    scenes = read(tmp_path)
    for image, path in zip(scenes.images, scenes.paths, strict=True):
        np.testing.assert_array_equal(image, written[path].transpose(1, 2, 0))
    assert {(band.low, band.high) for band in scenes.bands} == {(0, 255)}
    assert not any(scenes.gaps)


def test_a_value_that_marks_no_data_is_heeded_beside_alpha(tmp_path: Path) -> None:
    drawn(tmp_path, 4, "uint8", nodata=0)
    bands = np.full((4, 8, 8), 9, np.uint8)
    bands[1, 0] = 0
    write(tmp_path / "Alpha" / "0.tif", bands, nodata=0)
    scenes = read(tmp_path)
    assert not scenes.images[0, 0].any()
    assert (scenes.images[0, 1:] == 9).all()
    assert scenes.gaps == (True, *(False,) * 5)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "float64"])
def test_limits_are_the_same_for_every_pixel_type(dtype: str, tmp_path: Path) -> None:
    written = drawn(tmp_path, 4, dtype)
    scenes = read(tmp_path, "4,1,2,3", "0:100,10:200,0:255,50:60")
    low, high = np.array([(0, 100), (10, 200), (0, 255), (50, 60)]).T
    for image, path in zip(scenes.images, scenes.paths, strict=True):
        np.testing.assert_array_equal(image, expected(written[path][[3, 0, 1, 2]], low, high))
    assert [band.name for band in scenes.bands] == ["4", "1", "2", "3"]


def test_names_units_and_wavelengths_are_those_of_the_file(tmp_path: Path) -> None:
    names, units = ("B2", "B3", "B4", "B8", "dem"), ("", "", "", "", "m")
    written = drawn(tmp_path, 5, names=names, units=units)
    scenes = read(tmp_path, "all", "0:255")
    assert [(band.name, band.wavelength, band.unit) for band in scenes.bands] == [
        ("B2", 0.490, ""),
        ("B3", 0.560, ""),
        ("B4", 0.665, ""),
        ("B8", 0.842, ""),
        ("dem", 0.0, "m"),
    ]
    by_name = read(tmp_path, "dem,B2", "0:255")
    np.testing.assert_array_equal(by_name.images, read(tmp_path, "5,1", "0:255").images)
    np.testing.assert_array_equal(by_name.images[0], written["Alpha/0.tif"][[4, 0]].transpose(1, 2, 0))
    record: Any = fingerprint(scenes)["rendering"]
    assert [Band(**entry) for entry in json.loads(json.dumps(record))["carried"]] == list(scenes.bands)


def test_three_names_are_the_same_picture_as_three_numbers(tmp_path: Path) -> None:
    drawn(tmp_path, 4, names=("B2", "B3", "B4", "B8"))
    names, numbers = read(tmp_path, "B4,B3,B2"), read(tmp_path, "3,2,1")
    np.testing.assert_array_equal(names.images, numbers.images)
    assert names.hashes == numbers.hashes
    assert fingerprint(names) == fingerprint(numbers)
    assert names.bands == ()


@pytest.mark.parametrize("names", [("x", "y", "x", "z"), ("a" * 65, "", "two\nlines", " "), ("3", None, "b", None)])
def test_names_that_do_not_tell_bands_apart_are_replaced_by_numbers(
    names: tuple[str | None, ...], tmp_path: Path
) -> None:
    drawn(tmp_path, 4, names=names)
    usual = ["1", "2", "3", "4"] if names[0] != "3" else ["3", "2", "b", "4"]
    assert [band.name for band in read(tmp_path).bands] == usual


@pytest.mark.parametrize("stretch", ["-50:300", "dB:-25:25", "0.001:0.7"])
@pytest.mark.parametrize("count", [1, 2, 4, 13])
def test_physical_values_read_again_are_the_same_pixels(count: int, stretch: str, tmp_path: Path) -> None:
    """A set in physical values, as float32, is read with the limits of the data that it stands for."""
    drawn(tmp_path / "data", 13, "float32")
    chosen = "all" if count in (1, 13) else ",".join(map(str, range(13, 13 - count, -1)))
    if count == 1:
        drawn(tmp_path / "one", 1, "float32")
    scenes = read(tmp_path / ("one" if count == 1 else "data"), chosen, stretch)
    assert scenes.rendering is not None
    levels = [np.roll(np.arange(256), 9 * band).reshape(16, 16) for band in range(count)]  # each in each band
    every = np.stack(levels, axis=-1).astype(np.uint8)
    for name in ("Alpha", "Beta"):
        for index in range(2):
            values = physical(every, scenes.bands).transpose(2, 0, 1)
            write(tmp_path / "set" / name / f"{index}.tif", values, names=[band.name for band in scenes.bands])
    again = read_scenes(tmp_path / "set", part="all", reading=scenes.rendering.of_sets)
    assert again.bands == scenes.bands
    for image in again.images:
        np.testing.assert_array_equal(image, every)


def test_decibels_are_ten_times_the_logarithm(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    values = np.exp(rng.normal(-2, 2, (2, 8, 8))).astype(np.float32)
    values[0, 0, 0], values[1, 0, 1], values[0, 0, 2], values[1, 0, 3] = 0, -1, np.nan, np.inf
    for name in ("Alpha/0", "Alpha/1", "Beta/0"):
        write(tmp_path / f"{name}.tif", values, names=("VV", "VH"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        scenes = read(tmp_path, "all", "dB:-25:5")
    with np.errstate(all="ignore"):
        level = expected(10 * np.log10(values.astype(np.float64)), -25, 5)
    np.testing.assert_array_equal(scenes.images[0, 1:], level[1:])
    np.testing.assert_array_equal(scenes.images[0, 0, 4:], level[0, 4:])
    assert not scenes.images[:, 0, :4].any()
    assert scenes.gaps == (True, True, True)
    assert look_over({"train": scenes}).messages()[-1] == (
        "3 images of train with pixels that have no data; these are 0 in every band"
    )
    assert [(band.name, band.low, band.high, band.decibels) for band in scenes.bands] == [
        ("VV", -25, 5, True),
        ("VH", -25, 5, True),
    ]


@pytest.mark.parametrize("bands", [None, "1", "VV"])
def test_one_radar_band_in_decibels_stays_grey(bands: str | None, tmp_path: Path) -> None:
    values = np.exp(np.random.default_rng(3).normal(-2, 2, (1, 8, 8))).astype(np.float32)
    for name in ("Alpha/0", "Alpha/1", "Beta/0"):
        write(tmp_path / f"{name}.tif", values, names=("VV",))
    scenes = read(tmp_path, bands, "dB:-25:5")
    level = expected(10 * np.log10(values.astype(np.float64)), -25, 5)
    np.testing.assert_array_equal(scenes.images[0], level.repeat(3, -1))
    assert scenes.bands == ()
    assert scenes.rendering is not None
    again = parse_reading("1", scenes.rendering.record()["stretch"])
    np.testing.assert_array_equal(read_scenes(tmp_path, part="all", reading=again).images, scenes.images)


def test_images_without_data_are_left_out_with_the_share(tmp_path: Path) -> None:
    drawn(tmp_path, 4, "float32")
    half, more = (np.full((4, 8, 8), 50, np.float32) for _ in range(2))
    half[1, :4] = np.nan
    more[2, :5] = np.inf
    write(tmp_path / "Beta" / "half.tif", half)
    write(tmp_path / "Beta" / "more.tif", more)
    write(tmp_path / "Beta" / "none.tif", np.zeros((4, 8, 8), np.float32))
    write(tmp_path / "Beta" / "void.tif", np.full((4, 8, 8), np.nan, np.float32))
    scenes = read(tmp_path, "all", "dB:0:30")
    assert reasons(scenes) == {
        "Beta/more.tif": "62 % of its pixels have no data, more than half",
        "Beta/none.tif": "no pixel has a value above 0, and others have no decibels",
        "Beta/void.tif": "no pixel has data",
    }
    assert dict(zip(scenes.paths, scenes.gaps, strict=True))["Beta/half.tif"]
    assert sum(scenes.gaps) == 1
    assert sum(scenes.only([0, 1]).gaps) == 0


def test_files_with_other_bands_are_rejected(tmp_path: Path) -> None:
    names = ("B2", "B3", "B4", "B8")
    drawn(tmp_path, 4, names=names)
    odd, bands = tmp_path / "Beta", np.full((4, 8, 8), 60, np.uint16)
    write(odd / "more.tif", np.full((5, 8, 8), 60, np.uint16), names=(*names, "B11"))
    write(odd / "swapped.tif", bands, names=("B4", "B3", "B2", "B8"))
    write(odd / "nameless.tif", bands)
    write(odd / "bytes.tif", bands.astype(np.uint8), names=names)
    write(odd / "waves.tif", bands.astype(np.complex64), names=names)
    (odd / "junk.tif").write_bytes(b"junk")
    assert reasons(read(tmp_path)) == {
        "Beta/more.tif": "has 5 bands where the other images have 4",
        "Beta/swapped.tif": "band 1 is called 'B4' where the other images have 'B2'",
        "Beta/nameless.tif": "band 1 is called '1' where the other images have 'B2'",
        "Beta/bytes.tif": "4 bands of uint8 where the other images have 4 bands of uint16",
        "Beta/waves.tif": "complex64 pixels have no brightness; convert them",
        "Beta/junk.tif": "damaged, cut short, or not readable as any of GTiff, PNG, JPEG, BMP, WEBP",
    }
    assert "Beta/more.tif" not in reasons(read(tmp_path, "1,2"))
    assert reasons(read(tmp_path, "B4,B3,B2"))["Beta/swapped.tif"].startswith("band 3 is called 'B2' where")


@pytest.mark.parametrize(
    ("bands", "stretch", "names", "message"),
    [
        ("1,2,3,9", None, (), r"first 0\.tif: has 5 bands, no band 9"),
        ("B4,B8", None, ("B2", "B3", "B4"), r"has no band called 'B8'; its bands are B2, B3, B4"),
        ("B4,B8", None, (), r"has no band called 'B4'; none of its 5 bands has a name: give --bands numbers"),
        ("x,y", None, ("x", "x", "y"), r"has 2 bands called 'x'; say with --bands the numbers"),
        ("all", "0:1,0:1", (), r"the images have 5 bands, the stretch is for 2; give one LOW:HIGH, or one for each"),
    ],
)
def test_bands_that_are_not_there_are_refused(
    bands: str, stretch: str | None, names: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    drawn(tmp_path, 5, names=names)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, bands, stretch)
    assert str(tmp_path) in str(caught.value)


def test_more_bands_than_are_carried_are_refused(tmp_path: Path) -> None:
    drawn(tmp_path, 65, side=4)
    with pytest.raises(DataError, match=r"has 65 bands, at most 64 are carried; say with --bands which"):
        read(tmp_path)
    assert read(tmp_path, "65,1").images.shape == (6, 4, 4, 2)


def test_a_constant_band_is_named(tmp_path: Path) -> None:
    for name in ("Alpha/0", "Beta/0"):
        bands = np.arange(4 * 64).reshape(4, 8, 8).astype(np.uint16)
        bands[2] = 7
        write(tmp_path / f"{name}.tif", bands)
    with pytest.raises(DataError, match=r"band 3 is 7 at both percentiles 2 and 98 .* choose other bands"):
        read(tmp_path)
    assert read(tmp_path, "1,2,4,3", "0:255").images[..., 3].tolist() == np.full((2, 8, 8), 7).tolist()


def stack(path: Path, pages: list[Image.Image]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pages[0].save(path, "TIFF", save_all=True, append_images=pages[1:])
    return path


def test_pages_of_single_bands_are_bands(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 3000, (5, 8, 12)).astype(np.uint16)
    pages = [Image.fromarray(page) for page in values]
    for name in ("Alpha/0", "Alpha/1", "Beta/0"):
        stack(tmp_path / f"{name}.tif", pages)
    stack(tmp_path / "Beta" / "sizes.tif", [*pages[:4], Image.new("I;16", (9, 9))])
    stack(tmp_path / "Beta" / "kinds.tif", [*pages[:4], Image.new("L", (12, 8))])
    stack(tmp_path / "Beta" / "few.tif", pages[:2])
    stack(tmp_path / "Beta" / "colours.tif", [Image.new("RGB", (12, 8)) for _ in range(5)])
    several = "of several sizes or kinds, which are no bands of one; save the wanted one as its own file"
    odd = {
        "Beta/sizes.tif": f"multi-page: 5 images {several}",
        "Beta/kinds.tif": f"multi-page: 5 images {several}",
        "Beta/colours.tif": "multi-page: 5 images; save the wanted one as its own file",
    }
    scenes = read(tmp_path, "all", "0:3000")
    assert reasons(scenes) == odd | {"Beta/few.tif": "has 2 bands, no band 5"}
    np.testing.assert_array_equal(scenes.images[0], expected(values[:, :, 2:10], 0, 3000))  # the middle square
    rgb = read(tmp_path, "5,3,1", "0:3000")
    np.testing.assert_array_equal(rgb.images, scenes.images[..., [4, 2, 0]])
    assert reasons(rgb)["Beta/few.tif"] == "has 2 bands, no band 5"
    with pytest.raises(DataError, match=r"0\.tif: multi-page: 5 images; save the wanted one as its own file"):
        read(tmp_path, None, "0:3000")
    with pytest.raises(DataError, match="animated or multi-page; save"):
        read(tmp_path, None)


def test_damaged_stacks_give_a_reason(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.full((8, 9), page, np.uint16)) for page in range(5)]
    whole = stack(tmp_path / "stack.tif", pages).read_bytes()
    for seed in range(200):
        rng, content = np.random.default_rng(seed), bytearray(whole)
        for place in rng.integers(0, len(content), rng.integers(1, 6)):
            content[place] = rng.integers(256)
        found = read_raster(bytes(content[: rng.integers(1, len(content) + 1)] if seed % 2 else content), "all")
        assert "vsimem" not in found if isinstance(found, str) else len(found.values) <= 5


def test_a_stack_of_hundreds_of_pages_is_refused(tmp_path: Path) -> None:
    for name in ("Alpha/0", "Beta/0"):
        stack(tmp_path / f"{name}.tif", [Image.new("L", (2, 2))] * 300)
    with pytest.raises(DataError, match="multi-page: 300 images, more than 256; save the wanted ones"):
        read(tmp_path, "1,2")


@pytest.mark.parametrize("count", [1, 3, 4])
def test_each_band_is_cut_and_resized_as_pillow_does_it(count: int, tmp_path: Path) -> None:
    values = np.random.default_rng(2).integers(0, 256, (16, 30, count)).astype(np.uint8)
    (tmp_path / "any").write_bytes(b"any")
    result = read_square(tmp_path / "any", 8, lambda content: values)
    assert not isinstance(result, str)
    for band in range(count):
        grey = Image.fromarray(values[:, 7:23, band]).resize((8, 8), Image.Resampling.LANCZOS)
        np.testing.assert_array_equal(result[1][..., band], np.asarray(grey))
    if count == 3:
        rgb = read_square(tmp_path / "any", 8, lambda content: Image.fromarray(values))
        assert not isinstance(rgb, str)
        np.testing.assert_array_equal(rgb[1], result[1])


def test_hashes_follow_what_decides_the_pixels(tmp_path: Path) -> None:
    drawn(tmp_path, 1, "float32")
    readings = (("all", "1:50"), ("1", "1:50"), ("all", "dB:1:50"), ("1", "dB:1:50"), ("all", "1:51"))
    assert len({read(tmp_path, *reading).hashes[0] for reading in readings}) == 5


def textures(count: int, bands: int, seed: int) -> npt.NDArray[np.uint8]:
    """Different smooth images of these bands, 64 px."""
    coarse = np.random.default_rng(seed).integers(30, 220, (count, bands, 6, 6)).astype(np.uint8)
    size, smooth = (64, 64), Image.Resampling.BICUBIC
    images = [[np.asarray(Image.fromarray(band).resize(size, smooth)) for band in tile] for tile in coarse]
    return np.stack([np.stack(tile, axis=-1) for tile in images])


@pytest.mark.parametrize("bands", [1, 2, 4, 13])
def test_near_duplicates_are_found_in_any_bands(bands: int) -> None:
    images = textures(40, bands, 1)
    turned = np.rot90(images[5], axes=(0, 1))
    brighter = np.clip(1.05 * images[7] + 8, 0, 255).astype(np.uint8)
    every = np.stack([*images, turned, brighter])
    hashes = [str(row) for row in range(len(every))]
    assert near_duplicates(every, hashes) == {40: 5, 41: 7}
    assert near_groups(every, hashes).tolist() == [*range(40), 5, 7]
    assert structure(every).shape == (42, 480 * bands)
    assert (480 * bands > EXACT) == (bands > 3)


def test_near_duplicates_stay_on_one_side_and_test_images_are_known(tmp_path: Path) -> None:
    images = textures(12, 4, 3)
    for row, image in enumerate([*images, np.rot90(images[0]), np.rot90(images[6])]):
        name = "Alpha" if row < 6 or row == 12 else "Beta"
        write(tmp_path / "train" / name / f"{row}.tif", image.transpose(2, 0, 1).copy())
    for name, row in (("Alpha", 0), ("Beta", 6)):
        write(tmp_path / "test" / name / "same.tif", images[row].transpose(2, 0, 1).copy())
    parts = {
        part: read_scenes(tmp_path, part=part, held_out=HeldOut(val_per_class=2), reading=Reading("all"))
        for part in PARTS
    }
    sides = [{Path(path).stem for path in scenes.paths} for scenes in parts.values()]
    for pair in ({"0", "12"}, {"6", "13"}):
        assert any(pair <= side for side in sides)
    whole = read_scenes(tmp_path, part="train", held_out=EVERY, reading=Reading("all"))
    found = look_over({"train": whole}, {"test": open_scenes(tmp_path, reading=whole.rendering).hashes("test")})
    assert found.shared == {("train", "test"): 2}


def test_floats_keep_the_bands() -> None:
    torch = pytest.importorskip("torch")
    images = textures(2, 4, 0)
    floats = to_float(torch.from_numpy(images))
    np.testing.assert_allclose(floats.numpy(), images.transpose(0, 3, 1, 2) / np.float32(127.5) - 1, atol=1e-6)


def test_a_set_of_other_bands_is_rejected(tmp_path: Path) -> None:
    drawn(tmp_path / "data", 4)
    rendering: Rendering | None = read(tmp_path / "data", "4,2").rendering
    assert rendering is not None
    drawn(tmp_path / "set", 2, "float32", names=("4", "2"))
    write(tmp_path / "set" / "Beta" / "more.tif", np.ones((3, 8, 8), np.float32), names=("4", "2", "1"))
    write(tmp_path / "set" / "Beta" / "swapped.tif", np.ones((2, 8, 8), np.float32), names=("2", "4"))
    assert reasons(read_scenes(tmp_path / "set", part="all", reading=rendering.of_sets)) == {
        "Beta/more.tif": "has 3 bands where the other images have 2",
        "Beta/swapped.tif": "band 1 is called '2' where the other images have '4'",
    }


def test_what_gdal_calls_its_colours_decides_nothing_of_many_bands(tmp_path: Path) -> None:
    """As PNG with alpha, whose fourth band hides pixels of a picture: as bands they are all there."""
    rgba = np.random.default_rng(1).integers(1, 256, (8, 8, 4)).astype(np.uint8)
    rgba[:3, :, 3], rgba[3:, :, 3] = 0, 255
    for name in ("Alpha/0", "Beta/0"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        buffer = io.BytesIO()
        Image.fromarray(rgba, "RGBA").save(buffer, "PNG")
        (tmp_path / f"{name}.png").write_bytes(buffer.getvalue())
    np.testing.assert_array_equal(read(tmp_path).images[0], rgba)
    assert not read(tmp_path, "1,2,3").images[0, :3].any()


def test_thirteen_bands_of_sentinel_2(shared_data: Callable[[str], Path]) -> None:
    scenes = read_scenes(shared_data("eurosat_ms") / "train", part="all", reading=Reading("all"))
    assert scenes.images.shape[1:] == (64, 64, 13)
    assert scenes.rejected == ()
    rgb = read_scenes(shared_data("eurosat_ms") / "train", part="all", reading=Reading((4, 3, 2)))
    np.testing.assert_array_equal(scenes.images[..., [3, 2, 1]], rgb.images)


def test_radar_in_decibels_uses_the_whole_range(shared_data: Callable[[str], Path]) -> None:
    root = shared_data("opensarship") / "train"
    decibels = read_scenes(root, part="all", reading=parse_reading("all", "dB:-25:5"))
    linear = read_scenes(root, part="all", reading=Reading("all"))
    assert decibels.images.shape[-1] == 1
    assert np.median(linear.images) < 10 < 30 < np.median(decibels.images) < 100
