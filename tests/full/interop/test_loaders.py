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
from dpd_runtime import Output
from dpd_runtime.bands import Band
from dpd_runtime.errors import DataError
from tests.banded import write_distilled, write_real
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
    data.setup("fit")
    batch = data.aug(next(iter(data.train_dataloader())))
    assert 0 <= batch["image"].min() < 0.1
    assert 0.9 < batch["image"].max() <= 1


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
