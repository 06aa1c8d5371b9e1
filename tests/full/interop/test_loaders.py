"""Loaders that users bring read a set: Croissant's reference implementation, and TorchGeo.

`.ci/full` runs this in an environment of its own; elsewhere it is skipped.
"""

import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnxruntime")
pytest.importorskip("rasterio")
from dpd_runtime import Output
from dpd_runtime.bands import Band
from dpd_runtime.errors import DataError
from tests.banded import scenes, write_distilled, write_real
from tests.drawn import write


def torchgeo_module() -> Any:
    """dpd_eval.torchgeo, or a skip.

    The torchvision of the package index is built for CUDA. Beside a PyTorch for CPUs it lacks two operators that
    TorchGeo does not call, and cannot be imported.
    """
    if find_spec("torchgeo") is None:
        pytest.skip("TorchGeo is not installed")
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        KEPT.append(library)
    from dpd_eval import torchgeo

    return torchgeo


KEPT: list[Any] = []


@pytest.mark.filterwarnings("ignore")  # of its own dependencies
def test_croissant_gives_each_image_with_its_class(tmp_path: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    write(tmp_path / "set", Output("imagefolder"), ipc=2)
    data = mlcroissant.Dataset(jsonld=str(tmp_path / "set" / "croissant.json"))
    labels = {row["classes/name"]: row["classes/label"] for row in data.records(record_set="classes")}
    assert labels["Forest"] == 1
    assert labels["SeaLake"] == 9
    rows = list(data.records(record_set="images"))
    assert sorted(row["images/class"] for row in rows) == [b"Forest"] * 2 + [b"SeaLake"] * 2
    of_files = {
        (path.parent.name.encode(), np.asarray(Image.open(path)).tobytes())
        for path in (tmp_path / "set").glob("*/*.png")
    }
    assert {(row["images/class"], np.asarray(row["images/image"]).tobytes()) for row in rows} == of_files


def test_torchgeo_has_each_image_under_the_label_of_its_bundle(tmp_path: Path) -> None:
    torchgeo = torchgeo_module()
    write(tmp_path / "set", Output("imagefolder"), ipc=2)
    data = torchgeo.DistilledScenes(tmp_path / "set")
    assert (len(data), len(data.classes), data.bands) == (4, 10, ())
    found = {(sample["label"].item(), sample["image"].numpy().tobytes()) for sample in data}
    assert found == {
        (label, np.asarray(Image.open(path)).transpose(2, 0, 1).astype(np.float32).tobytes())
        for name, label in (("Forest", 1), ("SeaLake", 9))
        for path in (tmp_path / "set" / name).glob("*.png")
    }


@pytest.mark.parametrize("decibels", [False, True])
def test_torchgeo_has_bands_in_physical_values(tmp_path: Path, decibels: bool) -> None:
    torchgeo, rasterio = torchgeo_module(), pytest.importorskip("rasterio")
    bands = [Band(f"B{number}", -25.0, 5.0 * number, decibels=decibels) for number in (1, 2, 3, 4)]
    root = write_distilled(tmp_path / "set", bands, of_class=2, seed=0)
    data = torchgeo.DistilledScenes(root)
    paths = sorted(root.glob("*/*.tif"))
    assert len(data) == len(paths) == 6
    for sample, path in zip(data, paths, strict=True):
        with warnings.catch_warnings(action="ignore"), rasterio.open(path) as file:
            np.testing.assert_array_equal(sample["image"].numpy(), file.read())
        assert data.classes[sample["label"]] == path.parent.name


@pytest.mark.filterwarnings("ignore")  # of its own dependencies
def test_a_trainer_of_torchgeo_learns_from_a_set_and_is_tested_on_real_images(tmp_path: Path) -> None:
    """Classes differ in the last of four bands alone, so that a third is chance."""
    torchgeo = torchgeo_module()
    import lightning
    from torchgeo.trainers import ClassificationTask

    bands = tuple(Band(f"B{number}", 0.0, 2550.0) for number in range(1, 5))
    made = write_distilled(tmp_path / "set", bands, of_class=20, seed=0)
    real = write_real(tmp_path / "real", 4, of_class=20, seed=1)
    lightning.seed_everything(0)
    data = torchgeo.DistilledDataModule(made, val=real, test=real, batch_size=20)
    trainer = lightning.Trainer(
        max_epochs=20, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    task = ClassificationTask(model="resnet18", in_channels=4, num_classes=3, lr=1e-3)
    trainer.fit(task, data)
    (measured,) = trainer.test(task, data, verbose=False)
    assert measured["test_OverallAccuracy"] > 0.8


@pytest.mark.filterwarnings("ignore")  # of its own dependencies
def test_without_validation_images_a_trainer_of_torchgeo_validates_on_the_set(tmp_path: Path) -> None:
    """Its schedulers ask for a validation loss."""
    torchgeo = torchgeo_module()
    import lightning
    from torchgeo.trainers import ClassificationTask

    made = write_distilled(tmp_path / "set", [Band("VH", -25.0, 5.0, decibels=True)], of_class=2, seed=0)
    data = torchgeo.DistilledDataModule(made, batch_size=6)
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(ClassificationTask(model="resnet18", in_channels=1, num_classes=3), data)
    assert trainer.callback_metrics["val_loss"].isfinite()
    assert len(data.val_dataset) == len(data.train_dataset) == 6


@pytest.mark.parametrize("decibels", [False, True])
def test_torchgeo_shows_a_trainer_and_people_the_levels_of_the_images(tmp_path: Path, decibels: bool) -> None:
    torchgeo = torchgeo_module()
    bands = [Band(f"B{number}", -25.0, 5.0 * number, decibels=decibels) for number in (1, 2, 3)]
    data = torchgeo.DistilledDataModule(write_distilled(tmp_path / "set", bands, of_class=2, seed=0), batch_size=6)
    levels = scenes(3, of_class=2, seed=0).images
    data.setup("validate")
    batch = next(iter(data.val_dataloader()))
    shown = data.aug(batch)
    assert len(batch["image"]) == len(levels)
    for image, drawn in zip(shown["image"], batch["image"], strict=True):
        grey = (255 * image).permute(1, 2, 0).numpy()
        (nearest,) = [known for known in levels if np.abs(known - grey).max() < 0.02]
        for figure in (data.plot({"image": image}), data.val_dataset.plot({"image": drawn})):
            ((axes,),) = [figure.axes]
            np.testing.assert_array_equal(axes.images[0].get_array(), nearest[..., [2, 1, 0]])


def test_torchgeo_reads_the_part_that_is_meant(tmp_path: Path) -> None:
    torchgeo = torchgeo_module()
    made = write_distilled(tmp_path / "set", [Band("B1", 0.0, 2550.0)], of_class=2, seed=0)
    for part, count in (("train", 1), ("val", 3), ("test", 4)):
        write_real(tmp_path / "parts" / part, 1, of_class=count, seed=1)
    data = torchgeo.DistilledDataModule(made, val=tmp_path / "parts", test=tmp_path / "parts")
    data.setup("fit")
    data.setup("test")
    assert (len(data.train_dataset), len(data.val_dataset), len(data.test_dataset)) == (6, 9, 12)
    shutil.rmtree(tmp_path / "parts" / "val")
    with pytest.raises(DataError, match=r"parts: has train and test, and no val; give the folder that is meant"):
        data.setup("validate")


def test_torchgeo_refuses_real_images_of_other_classes(tmp_path: Path) -> None:
    torchgeo = torchgeo_module()
    write(tmp_path / "set", Output("imagefolder"), ipc=2)
    (tmp_path / "set" / "Forest").rename(tmp_path / "Wood")
    real = tmp_path / "real"
    shutil.copytree(tmp_path / "set" / "SeaLake", real / "SeaLake")
    shutil.move(tmp_path / "Wood", real / "Wood")
    write(tmp_path / "again", Output("imagefolder"), ipc=2)
    with pytest.raises(DataError, match=r"real: .*again has no class Wood; name the class folders alike"):
        torchgeo.DistilledScenes(tmp_path / "again", real=real)


def test_torchgeo_draws_a_sample_with_its_class(tmp_path: Path) -> None:
    torchgeo = torchgeo_module()
    write(tmp_path / "set", Output("imagefolder"), ipc=2)
    data = torchgeo.DistilledScenes(tmp_path / "set")
    sample = data[0]
    (axes,) = data.plot(sample | {"prediction": sample["label"] * 0 + 9}, suptitle="of a set").axes
    assert axes.get_title() == "Label: Forest\nPrediction: SeaLake"
    (drawn,) = axes.images
    np.testing.assert_array_equal(drawn.get_array(), sample["image"].numpy().transpose(1, 2, 0).astype(np.uint8))
