"""GeoTIFFs and 16-bit images through rasterio: against numpy on the arrays that were written."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dpd_runtime.errors import DataError
from dpd_train.reading import HeldOut, Reading, parse_reading
from dpd_train.scene_set import SceneSet, fingerprint, look_over
from dpd_train.scenes import open_scenes, read_scenes
from tests.painted import paint, reasons, tiff, tree

rasterio = pytest.importorskip("rasterio", reason="rasterio (extra geo) is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
BANDS = Reading((4, 3, 2))


def write(path: Path, bands: npt.NDArray[Any], **options: Any) -> Path:
    """A GeoTIFF as GDAL writes it. bands [n, H, W]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = bands.shape
    shape = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": bands.dtype}
    with rasterio.open(path, "w", **shape, **options) as file:
        file.write(bands)
    return path


def satellite(root: Path, count: int = 4, side: int = 8) -> dict[str, npt.NDArray[np.uint16]]:
    """Two classes of five bands, 12 bits in uint16, and what was written, by path."""
    rng, written = np.random.default_rng(5), {}
    for name, level in (("Alpha", 200), ("Beta", 900)):
        for index in range(count):
            bands = rng.integers(level, level + 1500, (5, side, side)).astype(np.uint16)
            bands += 300 * np.arange(5, dtype=np.uint16)[:, None, None]
            write(root / name / f"{index}.tif", bands, nodata=0)
            written[f"{name}/{index}.tif"] = bands
    return written


def as_rgb(
    written: dict[str, npt.NDArray[Any]], scenes: SceneSet, limits: list[tuple[float, float]]
) -> npt.NDArray[Any]:
    low, high = np.array(limits).T
    images = np.stack([written[path][[3, 2, 1]] for path in scenes.paths]).transpose(0, 2, 3, 1)
    return np.rint(255 * np.clip((images - low) / (high - low), 0, 1))


def test_bands_are_stretched_over_the_whole_data_set(tmp_path: Path) -> None:
    written = satellite(tmp_path)
    scenes = read_scenes(tmp_path, part="all", reading=BANDS)
    every = np.stack(list(written.values()))
    limits = [tuple(np.percentile(every[:, band], (2, 98))) for band in (3, 2, 1)]
    np.testing.assert_allclose(scenes.images, as_rgb(written, scenes, limits), atol=1)  # limits have six digits
    assert scenes.rendering is not None
    np.testing.assert_allclose(np.array(scenes.rendering.limits), limits, rtol=1e-5)
    means = scenes.images.reshape(8, -1).mean(1)
    assert means[:4].max() + 30 < means[4:].min()  # the darker class stays darker


def test_every_part_has_the_stretch_of_the_training_images(tmp_path: Path) -> None:
    satellite(tmp_path / "train")
    for path in [*(tmp_path / "train").rglob("*.tif")]:
        with rasterio.open(path) as file:
            bright = file.read() * 4
        write(tmp_path / "test" / path.parent.name / path.name, bright)
    train, val, test = (
        read_scenes(tmp_path, part=part, reading=BANDS)
        for part in ("train", "val", "test")  # type: ignore[arg-type]
    )
    assert train.rendering == val.rendering == test.rendering
    assert (test.images == 255).mean() > 0.5


def test_percentiles_and_pixel_values_are_heeded(tmp_path: Path) -> None:
    written = satellite(tmp_path)
    scenes = read_scenes(tmp_path, part="all", reading=Reading((4, 3, 2), limits=((500, 2000),)))
    np.testing.assert_array_equal(scenes.images, as_rgb(written, scenes, [(500, 2000)] * 3))
    whole = read_scenes(tmp_path, part="all", reading=Reading((4, 3, 2), percentiles=(0, 100)))
    assert whole.images.min() == 0
    assert whole.images.max() == 255
    assert (whole.images == 255).sum() <= 3 * 4  # the largest values only


def test_the_recorded_stretch_does_the_same_to_other_images(tmp_path: Path) -> None:
    satellite(tmp_path / "here")
    scenes = read_scenes(tmp_path / "here", part="all", reading=BANDS)
    record: Any = fingerprint(scenes)["rendering"]
    reading = parse_reading(",".join(map(str, record["bands"])), record["stretch"])
    write(tmp_path / "here" / "Alpha" / "zz.tif", np.full((5, 8, 8), 60000, np.uint16))  # would move the percentiles
    again = read_scenes(tmp_path / "here", part="all", reading=reading)
    kept = [i for i, path in enumerate(again.paths) if path != "Alpha/zz.tif"]
    np.testing.assert_array_equal(again.images[kept], scenes.images)
    assert [again.hashes[i] for i in kept] == list(scenes.hashes)


def test_hashes_follow_what_decides_the_pixels(tmp_path: Path) -> None:
    satellite(tmp_path)
    content = hashlib.sha256((tmp_path / "Alpha" / "0.tif").read_bytes()).hexdigest()
    found = {
        read_scenes(tmp_path, part="all", reading=reading).hashes[0]
        for reading in (BANDS, Reading((3, 2, 1)), Reading((4, 3, 2), (1, 99)), Reading((4, 3, 2), limits=((0, 1),)))
    }
    assert len(found | {content}) == 5


def test_no_data_is_black_and_an_image_without_data_is_rejected(tmp_path: Path) -> None:
    written = satellite(tmp_path)
    holes = written["Alpha/0.tif"].astype(np.float32)
    for place, value in enumerate((np.nan, np.inf, -np.inf)):
        holes[1 + place, 0, place] = value  # in one of the chosen bands each
    holes[4, 5, 5] = np.nan  # in a band that is not chosen
    for name in ("Alpha", "Beta"):
        for index in range(4):
            write(tmp_path / "float" / name / f"{index}.tif", holes)
    write(tmp_path / "float" / "Beta" / "void.tif", np.full((5, 8, 8), np.nan, np.float32))
    write(tmp_path / "float" / "Beta" / "marked.tif", np.full((5, 8, 8), -9999, np.float32), nodata=-9999)
    scenes = read_scenes(tmp_path / "float", part="all", reading=Reading((4, 3, 2), (0, 100)))
    assert reasons(scenes) == {"Beta/void.tif": "no pixel has data", "Beta/marked.tif": "no pixel has data"}
    assert (scenes.images[:, 0, :3] == 0).all()
    assert scenes.images[:, 0, 3:].any(axis=(1, 2)).all()
    assert scenes.images[0, 5, 5].any()


def test_a_marked_value_does_not_move_the_stretch(tmp_path: Path) -> None:
    for name in ("Alpha", "Beta"):
        for index in range(3):
            bands = np.linspace(100, 200, 64).reshape(1, 8, 8).astype(np.int16).repeat(3, 0)
            bands[:, :4] = -32768
            write(tmp_path / name / f"{index}.tif", bands, nodata=-32768)
    scenes = read_scenes(tmp_path, part="all", reading=Reading(percentiles=(0, 100)))
    assert scenes.rendering is not None
    assert scenes.rendering.limits == ((150, 200),) * 3


def test_eight_bits_stay_as_they_are_unless_a_stretch_is_asked_for(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    bands = rng.integers(40, 90, (4, 8, 8)).astype(np.uint8)
    for name in ("Alpha", "Beta"):
        for index in range(2):
            write(tmp_path / name / f"{index}.tif", bands)
    scenes = read_scenes(tmp_path, part="all", reading=BANDS)
    np.testing.assert_array_equal(scenes.images[0], bands[[3, 2, 1]].transpose(1, 2, 0))
    assert read_scenes(tmp_path, part="all", reading=Reading((4, 3, 2), (0, 100))).images.max() == 255


def test_own_colours_of_16_bit_images(tmp_path: Path) -> None:
    for name, level in (("Alpha", 100), ("Beta", 3000)):
        for index in range(2):
            (tmp_path / "grey" / name).mkdir(parents=True, exist_ok=True)
            grey = np.full((8, 8), level + index, np.uint16)
            Image.fromarray(grey).save(tmp_path / "grey" / name / f"{index}.png")
            rgba = np.full((4, 8, 8), level + index, np.uint16)
            rgba[3, :2] = 0
            write(tmp_path / "rgba" / name / f"{index}.tif", rgba, photometric="RGB", alpha="YES")
    for kind in ("grey", "rgba"):
        scenes = read_scenes(tmp_path / kind, part="all", reading=Reading(percentiles=(0, 100)))
        assert scenes.images[:, 7, 7, 0].tolist() == [0, 0, 255, 255]
        assert (scenes.images == scenes.images[..., :1]).all()
    assert (scenes.images[:, :2] == 0).all()  # under alpha 0


def test_files_that_do_not_fit_the_others_are_rejected(tmp_path: Path) -> None:
    satellite(tmp_path)
    odd = tmp_path / "Beta"
    write(odd / "bytes.tif", np.full((5, 8, 8), 9, np.uint8))
    write(odd / "few.tif", np.full((2, 8, 8), 900, np.uint16))
    write(odd / "waves.tif", np.full((5, 8, 8), 9 + 2j, np.complex64))
    paint(odd / "rgb.png", 60)
    (odd / "cut.tif").write_bytes((odd / "0.tif").read_bytes()[:500])
    (odd / "junk.tif").write_bytes(b"junk")
    (odd / "zero.tif").write_bytes(b"")
    (odd / "map.tif").write_text(
        '<VRTDataset rasterXSize="8" rasterYSize="8"><SourceFilename>0.tif</SourceFilename></VRTDataset>'
    )
    Image.new("RGB", (8, 8)).quantize(4).save(odd / "palette.png")
    pages = [Image.new("RGB", (8, 8)) for _ in range(3)]
    pages[0].save(odd / "pages.tif", save_all=True, append_images=pages[1:])
    scenes = read_scenes(tmp_path, part="all", reading=BANDS)
    assert len(scenes.labels) == 8
    unreadable = "damaged, cut short, or not readable as any of GTiff, PNG, JPEG, BMP, WEBP"
    assert reasons(scenes) == {
        "Beta/bytes.tif": "3 bands of uint8 where the other images have 3 bands of uint16",
        "Beta/few.tif": "has 2 bands, no band 4",
        "Beta/waves.tif": "complex64 pixels have no brightness; convert them",
        "Beta/rgb.png": "has 3 bands, no band 4",
        "Beta/cut.tif": unreadable,
        "Beta/junk.tif": unreadable,
        "Beta/map.tif": unreadable,
        "Beta/zero.tif": "empty file",
        "Beta/palette.png": "palette colours; convert to RGB",
        "Beta/pages.tif": "multi-page: 3 images; save the wanted one as its own file",
    }


def test_bands_must_be_said_where_they_are_many(tmp_path: Path) -> None:
    satellite(tmp_path)
    with pytest.raises(DataError, match=r"first 0\.tif: has 5 bands; say with --bands which are red, green and blue"):
        read_scenes(tmp_path, part="all", reading=Reading(percentiles=(2, 98)))
    with pytest.raises(
        DataError, match=r"Alpha/0\.tif: 5 bands of 16 bits: say which are red, .* such as --bands 3,2,1 --stretch 2,98"
    ):
        read_scenes(tmp_path, part="all")


def test_a_constant_band_is_refused(tmp_path: Path) -> None:
    for name in ("Alpha", "Beta"):
        for index in range(2):
            write(tmp_path / name / f"{index}.tif", np.full((5, 8, 8), 7, np.uint16))
    with pytest.raises(DataError, match=r"band 4 is 7 at both percentiles 2 and 98 .* or give --stretch LOW:HIGH"):
        read_scenes(tmp_path, part="all", reading=BANDS)


def test_images_of_too_many_pixels_are_rejected(tmp_path: Path) -> None:
    satellite(tmp_path)
    sparse = {"driver": "GTiff", "count": 5, "height": 12000, "width": 12000, "dtype": "uint16", "SPARSE_OK": True}
    with rasterio.open(tmp_path / "Alpha" / "bomb.tif", "w", **sparse, compress="deflate", tiled=True):
        pass
    assert (tmp_path / "Alpha" / "bomb.tif").stat().st_size < 1e6
    scenes = read_scenes(tmp_path, part="all", reading=BANDS)
    assert reasons(scenes) == {"Alpha/bomb.tif": "too many pixels for one image; cut it into tiles"}


@pytest.mark.parametrize(("dtype", "count", "side"), [("float64", 5, 8000), ("complex128", 5, 4000)])
def test_a_small_file_that_claims_gigabytes_is_rejected(dtype: str, count: int, side: int, tmp_path: Path) -> None:
    satellite(tmp_path)
    sparse = {"driver": "GTiff", "count": count, "height": side, "width": side, "dtype": dtype, "SPARSE_OK": True}
    with rasterio.open(tmp_path / "Alpha" / "bomb.tif", "w", **sparse, tiled=True):
        pass
    assert (tmp_path / "Alpha" / "bomb.tif").stat().st_size < 3e6
    needed = 3 * side**2 * np.dtype(dtype).itemsize / 1e6
    assert reasons(read_scenes(tmp_path, part="all", reading=BANDS)) == {
        "Alpha/bomb.tif": f"{needed:.0f} MB of pixels, more than 268; cut it into tiles"
    }


def test_the_middle_square_is_read_and_resized_as_pillow_does(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    wide = rng.integers(0, 256, (3, 16, 30)).astype(np.uint8)
    for name in ("Alpha", "Beta"):
        (tmp_path / "png" / name).mkdir(parents=True)
        for index in range(2):
            write(tmp_path / "tif" / name / f"{index}.tif", wide)
            Image.fromarray(wide.transpose(1, 2, 0)).save(tmp_path / "png" / name / f"{index}.png")
    bands = read_scenes(tmp_path / "tif", part="all", resolution=8, reading=Reading((1, 2, 3)))
    np.testing.assert_array_equal(bands.images, read_scenes(tmp_path / "png", part="all", resolution=8).images)
    assert open_scenes(tmp_path / "tif").side == 16


def test_overviews_are_no_pages(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for name in ("Alpha", "Beta"):
        for index in range(2):
            path = write(tmp_path / name / f"{index}.tif", rng.integers(0, 3000, (3, 64, 64)).astype(np.uint16))
            with rasterio.open(path, "r+") as file:
                file.build_overviews([2, 4])
    scenes = read_scenes(tmp_path, part="all", reading=Reading((1, 2, 3)))
    assert scenes.images.shape == (4, 64, 64, 3)
    assert scenes.rejected == ()


def test_side_files_do_not_change_pixels(tmp_path: Path) -> None:
    """What is hashed is what is read: GDAL would take no-data values and masks from files beside the image."""
    satellite(tmp_path)
    before = read_scenes(tmp_path, part="all", reading=BANDS)
    aside = '<PAMDataset><PAMRasterBand band="4"><NoDataValue>1500</NoDataValue></PAMRasterBand></PAMDataset>'
    for path in tmp_path.rglob("*.tif"):
        path.with_name(path.name + ".aux.xml").write_text(aside)
    with rasterio.open(path) as file:
        assert file.nodatavals[3] == 1500  # the control: opened by its name, it would be another image
    again = read_scenes(tmp_path, part="all", reading=BANDS)
    np.testing.assert_array_equal(again.images, before.images)


def test_test_images_that_were_trained_on_are_found_under_a_stretch(tmp_path: Path) -> None:
    satellite(tmp_path / "train")
    for name in ("Alpha", "Beta"):
        (tmp_path / "test" / name).mkdir(parents=True)
        for index in range(2):
            shutil.copy(tmp_path / "train" / name / f"{index}.tif", tmp_path / "test" / name)
    (tmp_path / "test" / "Alpha" / "0.tif").rename(tmp_path / "test" / "Alpha" / "renamed.tif")
    write(tmp_path / "test" / "Beta" / "new.tif", np.full((5, 8, 8), 900, np.uint16))
    train = read_scenes(tmp_path, part="train", held_out=HeldOut(val_per_class=0, split="names"), reading=BANDS)
    found = look_over({"train": train}, {"test": open_scenes(tmp_path, reading=train.rendering).hashes("test")})
    whole = read_scenes(tmp_path, part="test", reading=BANDS)
    assert len(set(whole.hashes) & set(train.hashes)) == 4
    assert found.shared == {("train", "test"): 4}


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("kind", ["uint8", "int16", "uint16", "uint32", "float32", "float64"])
def test_pixel_types_and_layouts(tmp_path: Path, kind: str, planar: bool) -> None:
    """Files written by the tests' own few lines, so that GDAL does not check itself."""
    values = np.arange(5 * 6 * 6).reshape(5, 6, 6) % 97
    tree(tmp_path, count=2)
    for path in [*tmp_path.rglob("*.png")]:
        path.with_suffix(".tif").write_bytes(tiff(values.astype(kind), planar))
        path.unlink()
    scenes = read_scenes(tmp_path, part="all", reading=Reading((5, 1, 3), limits=((0, 255),)))
    np.testing.assert_array_equal(scenes.images[0], values[[4, 0, 2]].transpose(1, 2, 0))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), packed=st.booleans())
def test_damaged_rasters_never_crash(tmp_path: Path, seed: int, packed: bool) -> None:
    root = tmp_path / "data"
    if not root.exists():
        written = satellite(root, count=1)
        for name, options in (
            ("plain", {}),
            ("packed", {"compress": "deflate", "tiled": True, "blockxsize": 16, "blockysize": 16}),
        ):
            write(tmp_path / f"{name}.tif", written["Alpha/0.tif"], **options)
    content = bytearray((tmp_path / ("packed.tif" if packed else "plain.tif")).read_bytes())
    rng = np.random.default_rng(seed)
    for place in rng.integers(0, len(content), rng.integers(1, 6)):
        content[place] = rng.integers(256)
    victim = root / "Alpha" / "victim.tif"
    victim.write_bytes(content[: rng.integers(1, len(content) + 1)])
    scenes = read_scenes(root, part="all", reading=BANDS)
    assert len(scenes.labels) + len(scenes.rejected) == 3
    assert all("\n" not in entry.reason for entry in scenes.rejected)


@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize("photometric", ["minisblack", "rgb"])
def test_the_hint_for_four_bands_of_16_bits_can_be_followed(interleave: str, photometric: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(200, 3000, (4, 16, 16)).astype(np.uint16)
    for name in ("Alpha/0", "Alpha/1", "Beta/0", "Beta/1"):
        write(tmp_path / f"{name}.tif", values, interleave=interleave, photometric=photometric)
    usual = "1,2,3" if photometric == "rgb" else "3,2,1"
    with pytest.raises(DataError, match=f"4 bands of 16 bits: say .*, such as --bands {usual} --stretch 2,98") as said:
        read_scenes(tmp_path, part="all")
    words = str(said.value).split("such as ")[1].split(")")[0].split()
    found = read_scenes(tmp_path, part="all", reading=parse_reading(bands=words[1], stretch=words[3]))
    assert (words[0], words[2], len(found.labels)) == ("--bands", "--stretch", 4)
