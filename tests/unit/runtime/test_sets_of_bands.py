"""A set of images with other bands than RGB: physical values in files, one set hash in each form, false colours."""

import io
import json
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image as PillowImage

from dpd_runtime import Output
from dpd_runtime import dataset as writing
from dpd_runtime.bands import Band, physical
from dpd_runtime.dataset import DistilledSet, remove_set, set_hash, write_set
from dpd_runtime.errors import InputError, MissingExtraError
from dpd_runtime.formats import GeoTiff
from dpd_runtime.generation import BlockComputer
from dpd_runtime.networks import Block, Image
from tests.drawn import CLASSES, SIDE, Drawn, draw, opened

BANDS = {
    1: (Band("VV", -25, 5, decibels=True),),
    4: tuple(Band(name, 0, 3000 + i, 0.5 + i / 10, "reflectance × 10⁴") for i, name in enumerate("abcd")),
    13: tuple(Band(f"B{i}", -i, 2.5 + i) for i in range(13)),
}


def pixels(image: Image, bands: int) -> npt.NDArray[np.uint8]:
    """The drawn image in as many bands, each darker than the one before."""
    return np.stack([image.pixels[..., i % 3] - i for i in range(bands)], axis=-1).astype(np.uint8)


class DrawnBands(Drawn):
    def load(self) -> BlockComputer:
        computer, count = super().load(), len(self.bundle.manifest.bands)
        images = computer.images

        def of_bands(blocks: Sequence[Block], noises: object) -> Iterator[list[Image]]:
            for block in images(blocks, noises):  # type: ignore[arg-type]
                yield [replace(image, pixels=pixels(image, count)) for image in block]

        computer.images = of_bands  # type: ignore[method-assign]
        return computer


def drawn(count: int, ipc: int = 3) -> DrawnBands:
    bundle = opened()
    manifest = replace(bundle.manifest, bands=BANDS[count], image_shape=(SIDE, SIDE, count))
    return DrawnBands(replace(bundle, manifest=manifest), ipc=ipc, seed=7, classes=CLASSES, provider="cpu", threads=1)


def write(out: Path, count: int, output: Output = Output(), ipc: int = 3) -> DistilledSet:  # noqa: B008
    return write_set(drawn(count, ipc), out, output=output)


def expected(count: int) -> dict[tuple[str, int], npt.NDArray[np.uint8]]:
    """Pixels by class and index."""
    generation = drawn(count)
    blocks = [Block(scene, 0) for scene in generation.classes]
    return {(i.class_name, i.index): pixels(i, count) for block in blocks for i in draw(block) if i.index < 3}


@pytest.mark.parametrize("count", BANDS)
def test_geotiffs_hold_physical_values_and_what_each_band_is(count: int, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    result = write(tmp_path, count)
    assert result.set_hash == set_hash((*where, values) for where, values in expected(count).items())
    for (name, index), values in expected(count).items():
        path = tmp_path / name / f"{name}_{index:05d}.tif"
        with tifffile.TiffFile(path) as file:
            np.testing.assert_array_equal(
                file.asarray().reshape(count, SIDE, SIDE), physical(values, BANDS[count]).transpose(2, 0, 1)
            )
    dataset = json.loads((tmp_path / "dataset.json").read_text())
    assert [band["name"] for band in dataset["bands"]] == [band.name for band in BANDS[count]]
    assert dataset["image_format"] == "geotiff"
    assert f"{SIDE} × {SIDE}, {count} band" in (tmp_path / "README.md").read_text()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".") or path.suffix == ".npy"]


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize("count", BANDS)
def test_gdal_reads_the_names_units_and_values(count: int, tmp_path: Path) -> None:
    pytest.importorskip("tifffile")
    rasterio = pytest.importorskip("rasterio")
    write(tmp_path, count)
    ((name, index), values), *_ = expected(count).items()
    with rasterio.open(tmp_path / name / f"{name}_{index:05d}.tif") as file:
        assert file.descriptions == tuple(band.name for band in BANDS[count])
        assert [unit or "" for unit in file.units] == [band.unit for band in BANDS[count]]
        assert file.dtypes == ("float32",) * count
        np.testing.assert_array_equal(file.read().transpose(1, 2, 0), physical(values, BANDS[count]))


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize(
    "name", ["A&B", "&amp;", "&amp;lt;", "&lt;b&gt;", "<b>", '"B8"', "&quot;'", "&#38;", "&#233;é", "Größe <µm>", "]]>"]
)
def test_gdal_reads_each_name_as_it_is(name: str, tmp_path: Path) -> None:
    pytest.importorskip("tifffile")
    rasterio = pytest.importorskip("rasterio")
    bands = (Band(name, 0, 1, unit=name), Band("B2", 0, 1))
    (tmp_path / "a.tif").write_bytes(GeoTiff("geotiff", ".tif", bands=bands).encode(np.zeros((4, 4, 2), np.uint8)))
    with rasterio.open(tmp_path / "a.tif") as file:
        assert file.descriptions == (name, "B2")
        assert file.units[0] == name


@pytest.mark.parametrize("count", BANDS)
def test_npz_holds_the_bits_and_what_they_stand_for(count: int, tmp_path: Path) -> None:
    result = write(tmp_path, count, Output("npz"))
    with np.load(tmp_path / "set.npz") as arrays:
        order = sorted(expected(count).items(), key=lambda entry: (entry[0][0].encode(), entry[0][1]))
        np.testing.assert_array_equal(arrays["images"], [values for _, values in order])
        limits = zip(arrays["low"], arrays["high"], arrays["decibels"], arrays["band_names"], strict=True)
        assert list(limits) == [(band.low, band.high, band.decibels, band.name) for band in BANDS[count]]
    assert result.set_hash == set_hash((*where, values) for where, values in expected(count).items())


def test_the_contact_sheet_shows_false_colours(tmp_path: Path) -> None:
    write(tmp_path, 4, Output("npz"))
    sheet = np.asarray(PillowImage.open(tmp_path / "contact_sheet.png"))
    (_, values), *_ = expected(4).items()
    corner = sheet[2 : 2 + SIDE, -(SIDE + 2) * 3 : -(SIDE + 2) * 2][:, :SIDE]
    assert np.abs(corner.astype(int) - values[..., [2, 1, 0]]).mean() < 3  # bands a, b, c, d: 3, 2 and 1


def test_an_unfinished_set_is_continued_and_a_finished_one_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tifffile")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(writing, "complete", killed)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "set", 13)
    assert len(list((tmp_path / "set/.unfinished").rglob("*.npy"))) == 6
    (damaged, *_) = sorted((tmp_path / "set/.unfinished").rglob("*.npy"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    again = write(tmp_path / "set", 13)
    assert again.computed == 3  # the block of the damaged image alone
    assert again.set_hash == write(tmp_path / "fresh", 13).set_hash
    assert write(tmp_path / "set", 13).computed == 0
    remove_set(tmp_path / "set")
    assert not list((tmp_path / "set").iterdir())


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (Output("parquet"), "--format parquet holds RGB, and this bundle has 13 bands: use imagefolder or npz"),
        (Output("webdataset"), "--format webdataset holds RGB"),
        (Output(image_format="jpeg"), "--image-format jpeg holds RGB, .* written as GeoTIFF: leave it out"),
    ],
)
def test_forms_that_hold_rgb_alone_are_refused(output: Output, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        write(tmp_path / "set", 13, output)
    assert not (tmp_path / "set").exists()


def test_geotiffs_need_a_package_and_npz_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    with pytest.raises(MissingExtraError, match=r"tifffile is not installed: pip install .*\[bands\]\""):
        write(tmp_path / "set", 4)
    assert write(tmp_path / "arrays", 4, Output("npz")).images == 6


@pytest.mark.parametrize("count", [1, 13])
def test_an_image_is_encoded_in_bounded_memory(count: int) -> None:
    """Its physical values are computed in float64: row by row, as a whole image of 64 bands would take gigabytes."""
    tifffile = pytest.importorskip("tifffile", reason="the extra bands is not installed")
    image = np.random.default_rng(0).integers(0, 256, (300, 200, count), dtype=np.uint8)
    encoding = GeoTiff("geotiff", ".tif", bands=BANDS[count])
    encoding.encode(image)  # imports
    tracemalloc.start()
    try:
        content = encoding.encode(image)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    found = tifffile.imread(io.BytesIO(content)).reshape(count, 300, 200)
    np.testing.assert_array_equal(found, np.moveaxis(physical(image, BANDS[count]), -1, 0))
    assert peak < 15 * image.size + 2**20
