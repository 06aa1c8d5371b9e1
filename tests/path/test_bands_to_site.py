"""Scenes of any bands, from files to a site: VAE of their own, matched codes, a bundle, physical values again."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
import torch

from dpd_eval.report import write_report
from dpd_export import ExportOptions, export_run
from dpd_export.options import check_export
from dpd_runtime import Output, generate, load_bundle, write_set
from dpd_runtime.bands import physical
from dpd_runtime.engines import Provider
from dpd_runtime.errors import DataError, InputError
from dpd_runtime.golden import replay
from dpd_train.bases import load_base, reconstruct
from dpd_train.compute import one_thread
from dpd_train.reading import parse_reading
from dpd_train.run import open_run
from dpd_train.scene_set import to_float
from dpd_train.scenes import read_scenes
from dpd_train.train import train
from dpd_train.vae import with_bands
from tests.tiny import BAND_NAMES, CONFIG, scenes_of_bands, tiny_base

rasterio = pytest.importorskip("rasterio")
pytest.importorskip("tifffile")
pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
STRETCH = {1: "dB:-25:5", 4: None, 13: "0:10000"}
IPC = 3


@pytest.fixture(
    scope="module",
    params=[pytest.param(1, marks=pytest.mark.full), 4, pytest.param(13, marks=pytest.mark.full)],
)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """Number of bands, and a folder with scenes, a run and its bundle."""
    count, folder = request.param, tmp_path_factory.mktemp("bands")
    config = replace(
        CONFIG,
        base=str(tiny_base(folder)),
        bands="all",
        stretch=STRETCH[count],
        ipc=IPC,
        prototypes=None,
        tune_vae=None,
        vae_steps=120,
        perceptual_steps=3,
        watcher_steps=2,
        matching_steps=4,
        val_per_class=4,
    )
    with one_thread(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("dpd_train.matching.VIEWS", 100)
        train(scenes_of_bands(folder / "scenes", count), folder / "run", config, cache=folder / "cache")
        export_run(folder / "run", folder / "site.dpd", ExportOptions(precision="fp32", codes_only=True))
    return count, folder


def test_the_bundle_says_what_the_bands_are(made: tuple[int, Path]) -> None:
    count, folder = made
    bundle = load_bundle(folder / "site.dpd")
    manifest = bundle.manifest
    assert (manifest.format_version, manifest.image_shape) == (4, (32, 32, count))
    assert tuple(band.name for band in manifest.bands) == BAND_NAMES[count]
    assert manifest.bands[-1].decibels == (count == 1)
    assert {band.wavelength for band in manifest.bands if band.name == "B4"} <= {0.665}
    if count == 13:
        assert {(band.low, band.high) for band in manifest.bands} == {(0, 10000)}
    assert sorted(bundle.files)[-1] == "vae_decoder/model.onnx"
    assert f"in {count} band" in bytes(bundle.files["MODEL_CARD.md"]).decode()


def test_its_images_are_pytorchs(made: tuple[int, Path]) -> None:
    done = replay(load_bundle(made[1] / "site.dpd"), Provider("cpu", ""))
    assert done is not None
    assert done.psnr_db >= 40


def test_the_vae_was_trained_on_the_bands(made: tuple[int, Path]) -> None:
    count, folder = made
    vae = load_base(str(folder / "run" / "pipeline")).vae
    assert (vae.config.in_channels, vae.config.out_channels) == (count, count)
    record = json.loads((folder / "run" / "run.json").read_text())
    assert (record["config"]["steps"], record["config"]["prototypes"]) == (0, "matched")
    assert record["metrics"]["decoder_tuned"]
    reading = parse_reading("all", STRETCH[count])
    images = to_float(torch.from_numpy(read_scenes(folder / "scenes", part="val", reading=reading).images))
    before, after = with_bands(load_base(str(folder / "base")), count).vae, vae
    errors = [float((reconstruct(one, images) - images).square().mean()) for one in (before, after)]
    assert errors[1] < 0.8 * errors[0]


def test_the_report_of_its_run_shows_decoded_codes(made: tuple[int, Path], tmp_path: Path) -> None:
    write_report([made[1] / "run"], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Decoded codes in false colour" in page
    assert "sampled" not in page.replace("sampled_images", "").replace("sampled images", "")


def test_a_set_has_physical_values_that_are_read_as_the_same_pixels(made: tuple[int, Path], tmp_path: Path) -> None:
    count, folder = made
    bundle = load_bundle(folder / "site.dpd")
    images = {(i.class_name, i.index): i.pixels for i in generate(bundle, ipc=IPC, provider="cpu")}
    written = write_set(generate(bundle, ipc=IPC, provider="cpu"), tmp_path / "set")
    assert written.images == len(images) == IPC * len(bundle.classes)
    for (name, index), pixels in images.items():
        assert pixels.shape == (32, 32, count)
        with rasterio.open(tmp_path / "set" / name / f"{name}_{index:05d}.tif") as file:
            np.testing.assert_array_equal(file.read().transpose(1, 2, 0), physical(pixels, bundle.manifest.bands))
            assert file.descriptions == BAND_NAMES[count]
    reading = parse_reading("all", STRETCH[count])
    real = read_scenes(folder / "scenes", part="train", reading=reading)
    assert real.rendering is not None
    again = read_scenes(tmp_path / "set", part="all", reading=real.rendering.of_sets)
    assert again.bands == real.bands == bundle.manifest.bands
    for path, found in zip(again.paths, again.images, strict=True):
        name, _, rest = path.partition("/")
        np.testing.assert_array_equal(found, images[name, int(rest[-9:-4])])
    arrays = write_set(generate(bundle, ipc=IPC, provider="cpu"), tmp_path / "arrays", output=Output("npz"))
    assert arrays.set_hash == written.set_hash


def test_only_codes_can_be_exported(made: tuple[int, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"have \d+ bands?, and no denoiser knows these.*--codes-only"):
        check_export(open_run(made[1] / "run"), tmp_path / "site.dpd", ExportOptions())


def test_classes_of_few_images_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    config = replace(CONFIG, base=str(tiny_base(tmp_path)), bands="all", tune_vae=None, prototypes=None)
    scenes = scenes_of_bands(tmp_path / "scenes", 4, per_class=12)
    with pytest.raises(
        DataError, match=r"has 10 different .*, and other bands than RGB need at least 20.*three --bands"
    ):
        train(scenes, tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"captioner": "clip:some/model"}, "--captioner clip:some/model is for red, green and blue, and --bands all"),
        ({"lambda_cls": 0.1}, "--lambda-cls 0.1"),
        ({"prototypes": "medoid"}, "--prototypes medoid"),
        ({"tune_vae": False}, "--no-tune-vae"),
        ({"watchers": "own,swimdiff:encoder"}, "--watchers"),
    ],
)
def test_what_knows_rgb_alone_is_refused_by_name(changes: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=f"{said}.*leave it out"):
        replace(CONFIG, **{"tune_vae": None, "prototypes": None, "bands": "all"} | changes)  # type: ignore[arg-type]
