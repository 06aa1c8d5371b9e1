"""The table of docs/reference/data.md, row by row: files of other writers, and the right values by numpy."""

import io
import re
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, PngImagePlugin

from dpd_runtime.bands import physical
from dpd_runtime.classifier import images_below, label_folder, load_engine, open_classifier
from dpd_runtime.errors import DataError
from dpd_runtime.formats import GeoTiff
from dpd_runtime.images import alike, pillow_rgb, reason_of
from dpd_runtime.tags import is_mask
from dpd_train.rasters import Rendering
from dpd_train.reading import Reading, parse_reading
from dpd_train.scene_set import look_over
from dpd_train.scenes import look_at, open_scenes, read_scenes
from tests.painted import reasons
from tests.teacher import write_teacher

rasterio = pytest.importorskip("rasterio", reason="rasterio (extra geo) is not installed")
tifffile = pytest.importorskip("tifffile", reason="tifffile (extra bands) is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
PAGE = Path(__file__).parents[3] / "docs" / "reference" / "data.md"
QUOTED = re.compile(r'"([^"]+)"')
BANDS, STRETCH = re.compile(r"--bands (\d+(?:,\d+)*)"), re.compile(r"--stretch ([\d.:]+(?:,[\d.:]+)*)")
SIDE = 16
Array = npt.NDArray[Any]
RNG = np.random.default_rng(82)
EIGHT = RNG.integers(1, 255, (4, SIDE, SIDE)).astype(np.uint8)
SIXTEEN = RNG.integers(0, 65536, (4, SIDE, SIDE)).astype(np.uint16)
MASK = np.where(np.arange(SIDE) < 5, 0, 255).astype(np.uint8)[None].repeat(SIDE, 0)
HALF = np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 3 == 0


def gdal(bands: Array, finish: Callable[[Any], None] = lambda dataset: None, **options: Any) -> bytes:
    """A file as GDAL writes it. bands [n, H, W]."""
    count, height, width = bands.shape
    shape = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": bands.dtype}
    quiet, inside = warnings.catch_warnings(action="ignore"), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True)
    with quiet, inside, rasterio.MemoryFile() as memory:
        with memory.open(**(shape | options)) as dataset:
            finish(dataset)
            dataset.write(bands)
        memory.seek(0)
        return memory.read()


def pages(*arrays: Array) -> bytes:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for array in arrays:
            writer.write(array, photometric="minisblack", metadata=None)
    return buffer.getvalue()


def pillow(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def scaled(dataset: Any) -> None:
    dataset.scales, dataset.offsets = (0.0000275,) * dataset.count, (-0.2,) * dataset.count


def coloured(dataset: Any) -> None:
    dataset.write_colormap(1, {level: (level, 255 - level, 9, 255) for level in range(256)})


def junk_no_data(bands: Array) -> bytes:
    """With a tag that GDAL never writes so."""
    content = gdal(bands, nodata=107)
    assert content.count(b"107\0") == 1
    return content.replace(b"107\0", b"n/a\0")


def hide(image: Array, where: Array) -> Array:
    return np.where(where, 0, image)


def stretch(bands: Array, low: float, high: float) -> Array:
    return np.rint(255 * np.clip((bands.astype(np.float64) - low) / (high - low), 0, 1)).astype(np.uint8)


@dataclass(frozen=True)
class Row:
    """A file, its pixels [1 or 3, H, W] without options, and those of `bands` by `limits`; None: it is left out."""

    content: bytes
    plain: Array | None
    by_bands: Array | None
    bands: tuple[int, ...] | None = (1, 2, 3)
    limits: tuple[float, float] | None = None
    near: int = 0


FULL = (0.0, 65535.0)
DARK = (SIXTEEN // 20).astype(np.uint16)
FLAT = (30000 + SIXTEEN // 30).astype(np.uint16)
HOLED = np.where(HALF, 200, EIGHT[:3]).astype(np.uint8)
HOLED[0, 1, 1], HOLED[1, 1, 1] = 200, 7  # in one band only
SOME = (HOLED == 200).any(axis=0)
LOW16 = np.clip(SIXTEEN[:3], 7300, 50000)
BGR = np.stack([EIGHT[2], EIGHT[1], EIGHT[0]])
ICC = PngImagePlugin.PngInfo()
ICC.add(b"gAMA", (100000).to_bytes(4, "big"))


def overviews() -> bytes:
    with warnings.catch_warnings(action="ignore"), tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.tif")
        path.write_bytes(gdal(np.tile(EIGHT[:3], (1, 8, 8))))
        with rasterio.open(path, "r+") as dataset:
            dataset.build_overviews([2, 4])
        return path.read_bytes()


def named(dataset: Any) -> None:
    dataset.colorinterp = [rasterio.enums.ColorInterp[name] for name in ("blue", "green", "red")]


def rows() -> dict[str, Sequence[Row]]:
    cmyk = Image.frombytes("CMYK", (SIDE, SIDE), EIGHT.transpose(1, 2, 0).tobytes())
    rgb = np.asarray(cmyk.convert("RGB")).transpose(2, 0, 1)
    palette = np.stack([EIGHT[0], 255 - EIGHT[0], np.full_like(EIGHT[0], 9)])
    with_nir = gdal(EIGHT)
    masked = np.concatenate([EIGHT[:3], MASK[None]])
    white = {"photometric": "MINISWHITE"}
    whole = np.tile(EIGHT[:3], (1, 8, 8))
    few, flat = 100 + EIGHT[:3] // 20, stretch(FLAT[:3], 30000, 32000)
    limited = (stretch(SIXTEEN[:3], *FULL), (1, 2, 3), FULL)
    return {
        "8 bits, grey or RGB": [
            Row(gdal(EIGHT[:3]), EIGHT[:3], EIGHT[:3]),
            Row(gdal(EIGHT[:1]), EIGHT[:1], EIGHT[:1], (1,)),
        ],
        "1, 2 or 4 bits, grey (258)": [Row(gdal(EIGHT[:1] % 16, nbits=4), EIGHT[:1] % 16 * 17, None, (1,))],
        "16 bits without a sign": [
            Row(gdal(SIXTEEN[:1]), np.rint(SIXTEEN[:1] / 257), stretch(SIXTEEN[:1], *FULL), (1,), FULL),
            Row(gdal(SIXTEEN[:3], photometric="RGB"), SIXTEEN[:3] >> 8, *limited),
        ],
        "16 bits, dark: 98 % of its values below 4096": [
            Row(gdal(DARK[:1]), None, stretch(DARK[:1], 0, 3000), (1,), (0, 3000)),
            Row(gdal(DARK[:3], photometric="RGB"), None, stretch(DARK[:3], 0, 3000), (1, 2, 3), (0, 3000)),
        ],
        "16 bits without contrast: most values within a quarter of 0 … 65535": [
            Row(gdal(FLAT[:1]), None, stretch(FLAT[:1], 30000, 32000), (1,), (30000, 32000)),
            *(
                Row(
                    gdal(FLAT[:3], photometric="RGB", **kind), None, stretch(FLAT[:3], 30000, 32000), None, (3e4, 3.2e4)
                )
                for kind in ({}, {"compress": "deflate", "predictor": 2}, {"endianness": "BIG"})
            ),
            Row(gdal(FLAT[:3], driver="PNG"), None, flat, None, (30000, 32000)),
        ],
        "16 bits that were 8, written twice or before a zero byte": [
            Row(gdal(few * np.uint16(257), photometric="RGB"), few, None, None),
            Row(gdal(few * np.uint16(256), driver="PNG"), few, None, None),
            Row(gdal(few[:1] * np.uint16(257)), few[:1], None, None),
        ],
        "integers with a sign (339) or of 32 bits": [
            Row(gdal(array), None, stretch(array, -100, 20000), (1,), (-100, 20000))
            for array in (
                EIGHT[:1].astype(np.int8),
                (SIXTEEN[:1] // 2).astype(np.int16),
                SIXTEEN[:1].astype(np.uint32),
                SIXTEEN[:1].astype(np.int32),
            )
        ],
        "floating-point numbers (339)": [
            Row(gdal(EIGHT[:1].astype(np.float32)), None, stretch(EIGHT[:1], 0, 300), (1,), (0, 300))
        ],
        "complex numbers (339)": [Row(gdal(EIGHT[:1].astype(np.complex64)), None, None, (1,), (0, 300))],
        "0 is white (262)": [
            Row(gdal(EIGHT[:1], **white), 255 - EIGHT[:1], 255 - EIGHT[:1], (1,)),
            Row(
                gdal(SIXTEEN[:1], **white),
                np.rint((65535 - SIXTEEN[:1]) / 257),
                stretch(65535 - SIXTEEN[:1], *FULL),
                (1,),
                FULL,
            ),
        ],
        "palette (262)": [Row(gdal(EIGHT[:1], coloured, photometric="palette"), palette, None, (1,))],
        "CMYK, 8 bits (262)": [Row(gdal(EIGHT, photometric="CMYK"), rgb, rgb, near=1)],
        "Lab and other colours (262)": [Row(gdal(EIGHT[:3], photometric="CIELAB"), None, EIGHT[:3], near=255)],
        "a value for no data (42113)": [
            Row(gdal(HOLED, nodata=200), hide(HOLED, (HOLED == 200).all(axis=0)), hide(HOLED, SOME)),
            Row(gdal(HOLED[2:], nodata=200), hide(HOLED[2:], HOLED[2] == 200), hide(HOLED[2:], HOLED[2] == 200), (1,)),
            Row(
                gdal(np.where(HALF, 65535, LOW16).astype(np.uint16), nodata=65535, photometric="RGB"),
                hide(LOW16 >> 8, HALF),
                hide(stretch(LOW16, *FULL), HALF),
                limits=FULL,
            ),
            Row(
                gdal(np.where(HALF, 65535, LOW16[:1]).astype(np.uint16), nodata=65535, **white),
                hide(np.rint((65535 - LOW16[:1]) / 257), HALF),
                hide(stretch(65535 - LOW16[:1], *FULL), HALF),
                (1,),
                FULL,
            ),
            Row(gdal(HOLED), HOLED, HOLED),
        ],
        "a value for no data that is no number (42113)": [Row(junk_no_data(EIGHT[:3]), None, None)],
        "a transparent colour (PNG)": [
            Row(gdal(HOLED[2:], driver="PNG", nodata=200), hide(HOLED[2:], HOLED[2] == 200), None, None),
            Row(
                gdal(np.where(HALF, 65535, LOW16[:1]).astype(np.uint16), driver="PNG", nodata=65535),
                hide(np.rint(LOW16[:1] / 257), HALF),
                hide(stretch(LOW16[:1], *FULL), HALF),
                (1,),
                FULL,
            ),
            Row(
                gdal(np.where(HALF, 65535, LOW16).astype(np.uint16), driver="PNG", nodata=65535),
                hide(LOW16 >> 8, HALF),
                hide(stretch(LOW16, *FULL), HALF),
                (1, 2, 3),
                FULL,
            ),
        ],
        "scale and offset (42112)": [
            Row(
                gdal(LOW16, scaled, photometric="RGB"),
                None,
                stretch(LOW16 * 0.0000275 - 0.2, 0, 1),
                limits=(0, 1),
                near=1,
            )
        ],
        "a band marked as alpha (338), a mask": [
            Row(gdal(masked), hide(EIGHT[:3], MASK == 0), hide(EIGHT[:3], MASK == 0)),
            Row(gdal(masked, driver="PNG"), hide(EIGHT[:3], MASK == 0), hide(EIGHT[:3], MASK == 0)),
            Row(gdal(masked, alpha="PREMULTIPLIED"), hide(EIGHT[:3], MASK == 0), hide(EIGHT[:3], MASK == 0)),
            Row(gdal(masked[2:], alpha="YES"), hide(EIGHT[2:3], MASK == 0), hide(EIGHT[2:3], MASK == 0), (1,)),
            Row(
                gdal(np.concatenate([EIGHT[:3], MASK[None] // 255])),  # 0 and 1 are a mask as well
                hide(EIGHT[:3], MASK == 0),
                hide(EIGHT[:3], MASK == 0),
            ),
        ],
        "a band marked as alpha (338), no mask, such as near infrared": [
            Row(with_nir, EIGHT[:3], EIGHT[:3]),
            Row(gdal(EIGHT, alpha="PREMULTIPLIED"), EIGHT[:3], EIGHT[:3]),
            Row(gdal(EIGHT, driver="PNG"), EIGHT[:3], EIGHT[:3]),
            Row(gdal(EIGHT[:2], driver="PNG"), EIGHT[:1], EIGHT[:1], (1,)),
            Row(gdal(EIGHT, interleave="band", compress="deflate"), EIGHT[:3], EIGHT[:3]),
            Row(gdal(SIXTEEN, photometric="RGB", alpha="YES"), SIXTEEN[:3] >> 8, *limited),
            Row(gdal(np.where(HALF, 0, EIGHT).astype(np.uint8)), hide(EIGHT[:3], HALF), hide(EIGHT[:3], HALF)),
        ],
        "a band of which nothing is said (338)": [
            Row(gdal(EIGHT, alpha="NO"), EIGHT[:3], EIGHT[:3]),
            Row(gdal(EIGHT[:2]), EIGHT[:1], EIGHT[1:2], (2,)),
        ],
        "four bands or more, not marked as RGB (262)": [
            Row(gdal(EIGHT, photometric="MINISBLACK"), None, EIGHT[[2, 1, 0]], (3, 2, 1))
        ],
        "colours called otherwise than in the order red, green, blue (42112)": [
            Row(gdal(BGR, named, photometric="MINISBLACK"), None, stretch(EIGHT[:3], 0, 255), None, (0, 255))
        ],
        "a mask beside the image (254)": [
            Row(gdal(EIGHT[:3], lambda file: file.write_mask(MASK)), None, hide(EIGHT[:3], MASK == 0))
        ],
        "overviews (254)": [Row(overviews(), whole, whole)],
        "several pages": [Row(pages(*EIGHT[:3]), None, EIGHT[:3])],
        "colour profile, gamma": [
            Row(pillow(Image.fromarray(EIGHT[:3].transpose(1, 2, 0).copy()), pnginfo=ICC), EIGHT[:3], EIGHT[:3])
        ],
    }


ROWS = rows()
NOT_OF_ONE_FILE = "side files: `.aux.xml`, `.msk`"  # tests/unit/train/test_images_rasters.py has it


def table() -> dict[str, tuple[str, str]]:
    """The page's table: file → what happens without options and with them."""
    section = (
        PAGE.read_text(encoding="utf-8").split("## What is read, what is left out, and why\n")[1].split("\n## ")[0]
    )
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return {name: (plain, by_bands) for name, plain, by_bands in lines[1:]}


def agrees(said: str, found: Any, expected: Array | None, near: int, name: str) -> None:
    """What happened is what the page says: the reason has its words, or the pixels are those that numpy gives."""
    if isinstance(found, str):
        assert expected is None, f"{name}: {found}"
        assert "left out" in said, f"{name}: {found}"
        assert any(words in found for words in QUOTED.findall(said)), f"{name}: {found}"
        assert "\n" not in found
        return
    assert expected is not None, f"{name} was read"
    assert "read" in said, name
    pixels = np.asarray(found).transpose(2, 0, 1)
    difference = np.abs(pixels.astype(int) - np.broadcast_to(expected, pixels.shape).astype(int))
    assert difference.max() <= near, name


def test_the_page_has_a_row_for_every_case() -> None:
    assert [*table()] == [*ROWS, NOT_OF_ONE_FILE]


@pytest.mark.parametrize("name", ROWS)
def test_a_row_says_what_happens_without_options(name: str) -> None:
    for row in ROWS[name]:
        try:
            found: Any = pillow_rgb(row.content)
        except Exception as error:
            found = reason_of(error)
        agrees(table()[name][0], found, row.plain, row.near, name)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_says_what_happens_with_options(name: str) -> None:
    for row in ROWS[name]:
        if row.by_bands is None and row.bands is None:
            continue
        rendering = Rendering(row.bands, None if row.limits is None else (row.limits,))
        agrees(table()[name][1], rendering.pixels(row.content), row.by_bands, row.near, name)


def written(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def textured(low: float, high: float, bands: int = 1) -> npt.NDArray[np.uint16]:
    return RNG.uniform(low, high, (bands, SIDE, SIDE)).astype(np.uint16)


@pytest.mark.parametrize("bands", [1, 3])
def test_calm_water_is_read_among_images_of_the_whole_range_and_not_alone(bands: int, tmp_path: Path) -> None:
    kind = {"photometric": "RGB"} if bands == 3 else {}
    town = [textured(3000, 64000, bands) for _ in range(3)]
    lake = [textured(20000, 21000, bands) for _ in range(3)]
    files = {f"town/{i}.tif": gdal(image, **kind) for i, image in enumerate(town)}
    files |= {f"lake/{i}.tif": gdal(image, **kind) for i, image in enumerate(lake)}
    scenes = read_scenes(written(tmp_path / "both", files), part="all")
    assert scenes.rejected == ()
    grey = np.rint(lake[0][0] / 257) if bands == 1 else lake[0][0] >> 8
    np.testing.assert_array_equal(scenes.images[0, ..., 0], grey)
    content = written(tmp_path / "alone", {"lake.tif": gdal(lake[0], **kind)})
    assert "of 256 grey levels" in str(pillow_rgb((content / "lake.tif").read_bytes()))


def test_a_bright_outlier_does_not_make_a_narrow_data_set_usable(tmp_path: Path) -> None:
    """As Landsat's reflectance: one cloudy image would be read, and in another way than the rest."""
    files = {f"{name}/{i}.tif": gdal(textured(8000, 14000)) for name in ("a", "b") for i in range(40)}
    files["a/cloud.tif"] = gdal(textured(9000, 60000))
    look = look_at(open_scenes(written(tmp_path, files)))
    assert look.sample.usable == 0
    assert look.suggestion is not None
    assert look.suggestion[0] == "--stretch 2,98"
    assert look.suggestion[1].usable == look.suggestion[1].images
    with pytest.raises(DataError, match=r"16-bit grey with most values of all files from 8\d{3} to 1\d{4} would keep"):
        read_scenes(tmp_path, part="all")
    assert not read_scenes(tmp_path, part="all", reading=parse_reading(stretch="2,98")).rejected


@pytest.mark.parametrize("driver", ["GTiff", "PNG"])
def test_infrared_over_water_hides_nothing_where_other_files_show_that_it_is_no_mask(
    driver: str, tmp_path: Path
) -> None:
    infrared = RNG.integers(0, 256, (8, SIDE, SIDE)).astype(np.uint8)
    infrared[6], infrared[7] = 0, MASK  # water, and a shore that is cut off at both ends
    images = [np.concatenate([EIGHT[:3], one[None]]) for one in infrared]
    root = written(
        tmp_path, {f"{'ab'[i % 2]}/{i}.img.png": gdal(image, driver=driver) for i, image in enumerate(images)}
    )
    scenes = read_scenes(root, part="all")
    for image in scenes.images:
        np.testing.assert_array_equal(image.transpose(2, 0, 1), EIGHT[:3])
    said = "all files of a sample have bands beyond their colours, which are not read; --bands all keeps them"
    expected = said.replace("all files", "6 of 8 files", 1)
    assert look_over({"train": scenes}).messages() == [expected]
    assert look_at(open_scenes(root)).remarks() == [expected]
    assert isinstance(pillow_rgb(gdal(images[6], driver=driver)), str)  # alone it cannot be told
    for image in read_scenes(root, part="all", reading=Reading((1, 2, 3))).images:
        np.testing.assert_array_equal(image.transpose(2, 0, 1), EIGHT[:3])
    np.testing.assert_array_equal(read_scenes(root, part="all", reading=Reading("all")).images[0, ..., 3], infrared[0])


def test_masks_stay_masks_where_most_files_have_one(tmp_path: Path) -> None:
    masked = np.concatenate([EIGHT[:3], MASK[None]])
    files = {f"{name}/{i}.png": gdal(masked, driver="PNG") for name in ("a", "b") for i in range(3)}
    files["a/nir.png"] = gdal(EIGHT, driver="PNG")
    scenes = read_scenes(written(tmp_path, files), part="all")
    hidden = {path: bool((image[:, :5] == 0).all()) for path, image in zip(scenes.paths, scenes.images, strict=True)}
    assert hidden == {path: path != "a/nir.png" for path in hidden}
    assert scenes.gaps == tuple(hidden.values())
    said = look_over({"train": scenes}).messages()
    assert any(line.startswith("6 images of train with pixels that have no data") for line in said)


def test_a_mask_may_have_soft_edges_and_a_band_may_not() -> None:
    soft = np.concatenate([np.zeros(60), np.arange(5, 250, 50), np.full(60, 255)])
    assert is_mask(soft.astype(np.uint8))
    assert is_mask(np.full(9, 128, np.uint8))
    assert not is_mask(np.arange(256).astype(np.uint8))
    edge = np.where(MASK[0] == 0, 0, 255).astype(np.uint8)
    edge[5] = 128
    image = np.asarray(pillow_rgb(gdal(np.concatenate([EIGHT[:3], edge[None, None].repeat(SIDE, 1)]))))
    np.testing.assert_allclose(image[:, 5], EIGHT[:3, :, 5].T * (128 / 255), atol=1)


def test_a_site_labels_the_same_images_alike_in_every_encoding_or_says_why_not(tmp_path: Path) -> None:
    """Of one classifier: near infrared changes no label, and raw reflectance gets none."""
    scenes = RNG.integers(1, 255, (6, 3, SIDE, SIDE)).astype(np.uint8)
    infrared = RNG.integers(1, 255, (6, 1, SIDE, SIDE)).astype(np.uint8)
    encodings = {
        "rgb": [gdal(one) for one in scenes],
        "nir": [gdal(np.concatenate([one, nir])) for one, nir in zip(scenes, infrared, strict=True)],
        "raw": [gdal((8000 + 20 * one.astype(np.uint16)), photometric="RGB") for one in scenes],
        "holes": [gdal(np.where(HALF, 255, one).astype(np.uint8), nodata=255) for one in scenes],
    }
    for name, contents in encodings.items():
        written(tmp_path, {f"{name}/{i}.tif": content for i, content in enumerate(contents)})
    written(tmp_path, {"raw/seen.tif": encodings["rgb"][0]})
    classifier = open_classifier(write_teacher(tmp_path))
    _, engine = load_engine(classifier, "cpu", None, 1)
    found = {
        name: label_folder(classifier, engine, tmp_path / name, images_below(tmp_path / name)) for name in encodings
    }
    labels = {name: [(one.name, one.probability) for one in of.labels] for name, of in found.items()}
    assert labels["nir"] == labels["rgb"]
    assert found["rgb"].notes == ()
    assert found["nir"].notes == ("all files of a sample have bands beyond their colours, which are not read",)
    assert [label.file for label in found["raw"].labels if label.name is not None] == ["seen.tif"]
    assert all(
        label.reason.endswith("grey levels; convert it to 8-bit RGB as the training images were")
        for label in found["raw"].unread
    )
    assert found["holes"].notes[0].startswith("6 images have pixels without data, which are black")


def test_a_site_gets_physical_values_of_files_with_a_scale_and_an_offset_of_their_own(tmp_path: Path) -> None:
    """As Sentinel-2 before and after 2022: other stored values, the same reflectances."""
    reflectance = RNG.uniform(0.01, 0.6, (4, 4, SIDE, SIDE))
    for i, values in enumerate(reflectance):
        scale, offset = ((0.0001, 0.0), (0.0001, -0.1), (0.0000275, -0.2), (0.00005, 0.0))[i]

        def tell(dataset: Any, scale: float = scale, offset: float = offset) -> None:
            dataset.scales, dataset.offsets, dataset.units = (scale,) * 4, (offset,) * 4, ("1",) * 4

        stored = np.rint((values - offset) / scale).astype(np.uint16)
        written(tmp_path, {f"{'ab'[i % 2]}/{i}.tif": gdal(stored, tell)})
    scenes = read_scenes(tmp_path, part="all", reading=parse_reading("all", "0:0.7"))
    assert scenes.rejected == ()
    step = 0.7 / 255
    for image, path in zip(scenes.images, scenes.paths, strict=True):
        expected = reflectance[int(Path(path).stem)].transpose(1, 2, 0)
        np.testing.assert_allclose(physical(image, scenes.bands), expected, atol=step / 2 + 1e-4)
    assert {(band.low, band.high, band.unit) for band in scenes.bands} == {(0, 0.7, "1")}
    (tmp_path / "site.tif").write_bytes(GeoTiff(name="tif", suffix=".tif", bands=scenes.bands).encode(scenes.images[0]))
    with rasterio.open(tmp_path / "site.tif") as site, rasterio.open(tmp_path / scenes.paths[0]) as real:
        of_file = real.read() * np.array(real.scales)[:, None, None] + np.array(real.offsets)[:, None, None]
        np.testing.assert_allclose(site.read(), of_file, atol=step / 2 + 1e-6)
    by_share = read_scenes(tmp_path, part="all", reading=parse_reading("all"))
    every = reflectance.transpose(1, 0, 2, 3).reshape(4, -1)
    for band, values in zip(by_share.bands, every, strict=True):
        np.testing.assert_allclose((band.low, band.high), np.percentile(values, (2, 98)), atol=1e-3)


def test_limits_of_stored_values_do_not_make_physical_ones_black(tmp_path: Path) -> None:
    files = {f"{name}/{i}.tif": gdal(LOW16, scaled, photometric="RGB") for name in ("a", "b") for i in range(2)}
    with pytest.raises(
        DataError, match=r"outside of the stretch, .* after scale 2\.75e-05 and offset -0\.2 of its tags"
    ):
        read_scenes(written(tmp_path, files), part="all", reading=parse_reading(stretch="7000:20000"))


def test_the_reasons_name_options_that_work(tmp_path: Path) -> None:
    """Every reason of the table that names options: with these the file is read."""
    for name, cases in ROWS.items():
        for row in cases:
            found = pillow_rgb(row.content) if "complex" not in name else ""
            if not isinstance(found, str) or not (
                words := re.search(r"(--bands \S+?)?,? ?(--stretch [\d.,:]+\d)?(?=[,;]|$)", found)
            ):
                continue
            bands, stretch = ((part or "").partition(" ")[2] or None for part in words.groups())
            if bands or stretch:
                place = tmp_path / str(len([*tmp_path.iterdir()]))
                written(place, {f"{folder}/0.tif": row.content for folder in "ab"})
                assert not reasons(read_scenes(place, part="all", reading=parse_reading(bands, stretch))), found


def test_a_folder_of_plain_pictures_tells_nothing(tmp_path: Path) -> None:
    assert alike([]) == alike([tmp_path / "none.png"]).__class__()
    written(tmp_path, {"a.png": pillow(Image.new("RGB", (8, 8))), "b.png": b"junk"})
    found = alike([tmp_path / "a.png", tmp_path / "b.png"])
    assert (found.span, found.masks, found.note) == (None, True, "")
