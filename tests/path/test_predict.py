"""`dpd predict` without PyTorch: the embedded teacher labels the embedded bundle's own images."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnxruntime")
from dpd_runtime.classifier import images_below
from dpd_runtime.engines import Provider
from dpd_runtime.errors import DataError
from dpd_runtime.sessions import OnnxRuntimeEngine
from tests.commands import Done
from tests.commands import dpd as run_dpd
from tests.hostile.test_weights_outside import SECRET, spelled, spelling_graph
from tests.teacher import write_teacher
from tests.unit.runtime.test_model import with_graph


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, process_environment: dict[str, str]) -> Path:
    folder = tmp_path_factory.mktemp("predict")
    write_teacher(folder)
    assert run_dpd(["generate", "--ipc", "3", "--out", "set"], process_environment, folder).returncode == 0
    return folder


def predict(folder: Path, environment: dict[str, str], *arguments: str) -> Done:
    return run_dpd(["predict", "teacher", *arguments], environment, folder)


def test_every_image_gets_a_line(folder: Path, process_environment: dict[str, str]) -> None:
    (folder / "set" / "River" / "broken.png").write_bytes(b"cut short")
    arguments = ("set", "--out", "all.csv", "--sheet", "all.png", "--json")
    done = predict(folder, process_environment, *arguments)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["images"], found["unreadable"]) == (30, 1), "without the contact sheet"
    with (folder / "all.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["file"] for line in lines] == sorted(line["file"] for line in lines)
    named = [line for line in lines if line["class"]]
    agreed = sum(line["file"].startswith(line["class"] + "/") for line in named)
    assert agreed >= 27, "the teacher knows its own set"
    assert sum(found["counts"].values()) == len(named) == 30
    assert all(0.1 <= float(line["probability"]) <= 1 for line in named)
    (broken,) = [line for line in lines if not line["class"]]
    assert broken["file"] == "River/broken.png"
    assert broken["reason"].startswith("not readable as any of JPEG")
    with Image.open(folder / "all.png") as sheet:
        assert sheet.height == 10 * 66 + 2
    (folder / "set" / "River" / "broken.png").unlink()


def test_agreement_is_said_where_all_folders_are_classes(folder: Path, process_environment: dict[str, str]) -> None:
    done = predict(folder, process_environment, "set", "--out", "labels.csv")
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0].startswith("30 images labelled in labels.csv, ")
    share = float(said[-1].removeprefix("agreement ").split(" %")[0])
    with (folder / "labels.csv").open(newline="") as file:
        right = [line["file"].startswith(line["class"] + "/") for line in csv.DictReader(file)]
    assert share == pytest.approx(100 * np.mean(right), abs=0.05)
    told = json.loads(predict(folder, process_environment, "set", "--out", "told.csv", "--json").stdout)
    with (folder / "told.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    for name, found in told["agreement_of_folders"].items():
        own = [line["class"] == name for line in lines if line["file"].startswith(f"{name}/")]
        assert found == pytest.approx(np.mean(own))
    assert list(told["agreement_of_folders"].values()) == sorted(told["agreement_of_folders"].values())
    assert told["unsure"]["images"] == sum(float(line["probability"]) < 0.5 for line in lines)
    again = predict(folder, process_environment, "set", "--out", "labels.csv")
    assert again.returncode == 2
    assert "--out labels.csv exists; give another name, or pass --overwrite" in again.stderr
    assert predict(folder, process_environment, "set", "--out", "labels.csv", "--overwrite").returncode == 0
    for out, words in (("none/labels.csv", "the folder none does not exist"), ("set", "is a folder; give the name of")):
        refused = predict(folder, process_environment, "set", "--out", out, "--overwrite")
        assert refused.returncode == 2
        assert f"--out {out}: {words}" in refused.stderr


def test_folders_that_agree_least_are_named(folder: Path, process_environment: dict[str, str]) -> None:
    for name, other in (("Forest", "River"), ("River", "River")):
        (folder / "moved" / name).mkdir(parents=True)
        for path in (folder / "set" / other).glob("*.png"):
            (folder / "moved" / name / path.name).write_bytes(path.read_bytes())
    done = predict(folder, process_environment, "moved", "--out", "moved.csv")
    with (folder / "moved.csv").open(newline="") as file:
        lines = [(line["file"].split("/")[0], line["class"]) for line in csv.DictReader(file)]
    right = sum(folder == name for folder, name in lines)
    said = done.stdout.splitlines()[-1]
    assert said == f"agreement {100 * right / 6:.1f} % have the name of their folder; lowest: Forest 0 % of 3"


def test_unsure_labels_are_counted_where_no_folder_says_the_class(
    folder: Path, process_environment: dict[str, str]
) -> None:
    (folder / "flat").mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).resize((64, 64)).save(
            folder / "flat" / f"{number}.png"
        )
    for path in (folder / "set" / "River").glob("*.png"):
        (folder / "flat" / path.name).write_bytes(path.read_bytes())
    done = predict(folder, process_environment, "flat", "--out", "flat.csv")
    with (folder / "flat.csv").open(newline="") as file:
        count = sum(float(line["probability"]) < 0.5 for line in csv.DictReader(file))
    assert f"unsure    {count} of 9 labels ({100 * count / 9:.1f} %) have a probability below 0.5" in done.stdout
    assert "agreement" not in done.stdout


def test_images_of_another_size_and_colour_are_brought_to_the_classifiers(
    folder: Path, process_environment: dict[str, str]
) -> None:
    (folder / "others").mkdir()
    Image.new("L", (200, 90), 60).save(folder / "others" / "grey.png")
    Image.new("RGBA", (8, 8), (9, 90, 20, 255)).save(folder / "others" / "alpha.png")
    Image.fromarray(np.full((20, 20), 0.5, np.float32)).save(folder / "others" / "float.tif")
    Image.new("L", (20, 20)).save(folder / "others" / "map.gif")
    done = predict(folder, process_environment, "others", "--out", "others.csv")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("2 images labelled")
    said = "floating-point pixels have no known range; convert it to 8-bit RGB as the training images were"
    assert f"left out  2 files, first float.tif: {said}" in done.stdout, "no option of the training is advised"
    with (folder / "others.csv").open(newline="") as file:
        reasons = {line["file"]: line["reason"] for line in csv.DictReader(file)}
    assert reasons["map.gif"].startswith("not readable as any of JPEG")


def test_a_folder_that_cannot_be_listed_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its images would be missing from the CSV without a word."""
    (tmp_path / "images" / "River").mkdir(parents=True)
    listed = os.scandir

    def refused(place: Any) -> Any:
        if str(place).endswith("River"):
            raise PermissionError(13, "Permission denied", str(place))
        return listed(place)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(DataError, match=r"River: cannot be listed \(Permission denied\); grant the permission"):
        images_below(tmp_path / "images")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("missing",), "missing: no such file or folder; give a folder of images"),
        (("empty",), "empty: holds no images; give a folder of images"),
        (("unreadable",), "none of 1 file can be read, first a.png: empty file"),
        (("set", "--provider", "openvino"), "--provider openvino: give auto, cpu, cuda"),
        (("set", "--provider", "cpu", "--device", "0"), "--device 0: give the number of a GPU"),
        (("set", "--sheet", "taken.png"), "--sheet taken.png exists"),
        (("set", "--sheet", "labels.jpg"), "--sheet labels.jpg: the sheet is a PNG; give a name that ends in .png"),
    ],
)
def test_what_cannot_be_labelled(
    folder: Path, process_environment: dict[str, str], arguments: tuple[str, ...], words: str
) -> None:
    (folder / "empty").mkdir(exist_ok=True)
    (folder / "unreadable").mkdir(exist_ok=True)
    (folder / "unreadable" / "a.png").write_bytes(b"")
    (folder / "taken.png").touch()
    done = predict(folder, process_environment, *arguments, "--out", "never.csv")
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert not (folder / "never.csv").exists()


def test_a_folder_that_is_no_classifier(folder: Path, process_environment: dict[str, str]) -> None:
    done = run_dpd(["predict", "set", "set", "--out", "never.csv"], process_environment, folder)
    assert done.returncode == 2
    assert "set: no classifier, as it has no model.json; give a folder that dpd fit wrote" in done.stderr


def test_a_hostile_classifier_reads_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, process_environment: dict[str, str]
) -> None:
    """labels.csv spelled a file of the working folder, one byte a picture. The control: ONNX Runtime does read it."""
    pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    Path("secret").write_bytes(SECRET)
    graph = spelling_graph("secret", len(SECRET))
    assert spelled(OnnxRuntimeEngine(graph, Provider("cpu", "")), len(SECRET)) == SECRET
    folder = write_teacher(tmp_path)
    with_graph(folder, graph, side=1, classes=[f"{byte:03}" for byte in range(256)])
    Path("images").mkdir()
    for place in range(len(SECRET)):
        Image.new("RGB", (2, 2), (place, place, place)).save(Path("images", f"{place:03}.png"))
    done = run_dpd(["predict", "teacher", "images", "--out", "labels.csv"], process_environment, tmp_path)
    assert done.returncode == 3
    assert "model.onnx" in done.stderr
    assert not Path("labels.csv").exists()
