"""`dpd select`: what it leaves is a distilled set in form, real in content, without a word about its source files."""

import hashlib
import json
import struct
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

import torch

import dpd_eval.extractors as own
from dpd_cli.main import main
from dpd_eval.selection import random_subset, select, select_set, write_folder
from dpd_runtime.errors import OutputFolderError
from dpd_train.reading import HeldOut
from dpd_train.scenes import read_scenes

CLASSES = ("Field", "Lake", "Rock")
SIDE = 16


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 images of each class, of which read_scenes keeps the last for validation."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (root / name).mkdir()
        for i in range(12):
            pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"secret{i:02d}.png")
    return root


class Ran:
    def __init__(self, code: object, out: str, err: str) -> None:
        self.code, self.out, self.err = code or 0, out, err


def dpd(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> Ran:
    """`dpd select …` in this process."""
    monkeypatch.setattr(sys, "argv", ["dpd", "select", *map(str, arguments)])
    with pytest.raises(SystemExit) as leaving:
        main()
    return Ran(leaving.value.code, *capsys.readouterr())


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def hash_by_hand(folder: Path) -> str:
    """The set hash of docs/reference/bundle-format.md, from the files alone."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*/*.png")):
        name, index = path.parent.name.encode(), int(path.stem.rpartition("_")[2])
        pixels = pixels_of(path)
        digest.update(struct.pack("<I", len(name)) + name + struct.pack("<III", index, *pixels.shape[:2]))
        digest.update(pixels.tobytes())
    return digest.hexdigest()


def test_a_real_set(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    ran = dpd(monkeypatch, capsys, data, "--method", "random", "--ipc", 3, "--seed", 5, "--out", out, "--json")
    assert ran.code == 0
    assert ran.err == f"warning: {out} holds real images; like the data it may not leave the site\n"
    result = json.loads(ran.out)
    dataset = json.loads((out / "dataset.json").read_text())
    assert result["set_hash"] == dataset["set_hash"] == hash_by_hand(out)
    assert (result["images"], result["classes"], result["extractor"]) == (9, 3, None)
    assert (dataset["val_per_class"], dataset["split"], dataset["groups"]) == (None, "content", None)
    assert result["real_images"] is dataset["real_images"] is True

    scenes = read_scenes(data, part="train")
    rows = random_subset(scenes.labels, 3, 5)
    found = read_scenes(out, part="all")  # as `dpd evaluate` will
    np.testing.assert_array_equal(found.images, scenes.images[rows])
    np.testing.assert_array_equal(found.labels, scenes.labels[rows])
    validation = {image.tobytes() for image in read_scenes(data, part="val").images}
    assert len(validation) == len(CLASSES)
    assert not validation & {image.tobytes() for image in found.images}

    lines = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    known = {"file_name": "Lake/Lake_00001.png", "label": 1, "class": "Lake", "index": 1}
    assert lines[4] == known | dict.fromkeys(("prototype", "candidate", "margin", "seed"))
    assert sorted(line["file_name"] for line in lines) == sorted(
        path.relative_to(out).as_posix() for path in out.glob("*/*.png")
    )
    assert {path.name for path in out.iterdir()} == {*CLASSES, "metadata.jsonl", "dataset.json", "contact_sheet.png"}
    about = {name: dataset[name] for name in ("method", "ipc", "seed", "images", "counts", "state", "resolution")}
    assert about == {
        "method": "random",
        "ipc": 3,
        "seed": 5,
        "images": 9,
        "counts": dict.fromkeys(CLASSES, 3),
        "state": "complete",
        "resolution": SIDE,
    }
    assert dataset["data"]["images"] == 33
    for path in (out / "metadata.jsonl", out / "dataset.json"):
        assert "secret" not in path.read_text()
        assert str(data) not in path.read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(
            ["--method", "best", "--ipc", 1], ["'best'", "k-center, k-means, full, foreground, tdds"], id="method"
        ),
        pytest.param(["--method", "herding"], ["method herding needs --ipc"], id="no ipc"),
        pytest.param(["--method", "random", "--ipc", 0], ["ipc is 0"], id="ipc 0"),
        pytest.param(["--method", "full", "--ipc", 3], ["--ipc 3", "no effect on method full"], id="full ipc"),
        pytest.param(["--method", "k-means", "--ipc", 3, "--seed", 0], ["--seed 0 has no effect"], id="seed"),
        pytest.param(["--method", "random", "--ipc", 3, "--seed", -1], ["--seed is -1"], id="negative seed"),
        pytest.param(["--method", "random", "--ipc", 3, "--extractor", "own"], ["--extractor own has no"], id="unused"),
        pytest.param(["--method", "k-center", "--ipc", 3, "--extractor", "vgg"], ["'vgg'", "hf:"], id="extractor"),
        pytest.param(
            ["--method", "random", "--ipc", 3, "--segmenter", "a,b"], ["--method foreground:A+B"], id="no-use"
        ),
        pytest.param(["--method", "foreground:a+", "--ipc", 3], ["foreground:a+: give two"], id="segmenter"),
        pytest.param(
            ["--method", "k-center", "--ipc", 12], ["class Field has 11 real images", "give --ipc 11"], id="ipc 12"
        ),
    ],
)
def test_one_line_says_what_is_wrong(
    arguments: list[object],
    words: list[str],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ran = dpd(monkeypatch, capsys, data, "--out", tmp_path / "set", *arguments)
    assert ran.code == 2, ran.err
    assert ran.out == ""
    assert ran.err.startswith("dpd: ")
    assert ran.err.count("\n") == 1
    assert [word for word in words if word not in ran.err] == [], ran.err
    assert not (tmp_path / "set").exists(), "something was written"


def test_folders_that_are_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("four years")
    for out, words in (
        (tmp_path / "mine", "is not empty and is not a distilled set"),
        (data / "set", "would be read as images"),
        (data, "would be read as images"),
    ):
        ran = dpd(monkeypatch, capsys, data, "--method", "full", "--out", out, "--overwrite")
        assert (ran.code, ran.err.count("\n")) == (2, 1)
        assert words in ran.err
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "four years"
    assert sorted(path.name for path in data.iterdir()) == list(CLASSES)
    missing = dpd(monkeypatch, capsys, tmp_path / "none", "--method", "full", "--out", tmp_path / "set")
    assert (missing.code, "no such folder" in missing.err) == (2, True)


def test_again_otherwise_and_with_overwrite(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    common = (data, "--method", "random", "--out", out)
    first, again = (dpd(monkeypatch, capsys, *common, "--ipc", 3, "--json") for _ in range(2))
    assert json.loads(first.out)["set_hash"] == json.loads(again.out)["set_hash"]
    other = dpd(monkeypatch, capsys, *common, "--ipc", 2)
    assert (other.code, other.out) == (2, "")
    assert "made with another ipc" in other.err
    assert "--overwrite" in other.err
    assert hash_by_hand(out) == json.loads(first.out)["set_hash"]
    smaller = dpd(monkeypatch, capsys, *common, "--ipc", 2, "--overwrite")
    assert (smaller.code, "set hash  " + hash_by_hand(out) in smaller.out) == (0, True)
    assert len(list(out.glob("*/*.png"))) == 6


def test_full_takes_the_whole_training_part(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here with the options from a file."""
    config = tmp_path / "c.toml"
    config.write_text(f'[select]\nmethod = "full"\nval-per-class = 5\nresolution = 8\nout = "{tmp_path / "set"}"\n')
    ran = dpd(monkeypatch, capsys, data, "--config", config, "--json")
    assert (ran.code, json.loads(ran.out)["images"]) == (0, 21)
    expected = read_scenes(data, part="train", held_out=HeldOut(val_per_class=5), resolution=8)
    np.testing.assert_array_equal(read_scenes(tmp_path / "set", part="all").images, expected.images)


def test_features_of_a_model_on_this_machine(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    from dpd_eval.extractor_choice import build_extractor

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    ViTModel(ViTConfig(image_size=16, patch_size=8, **sizes)).save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "vit")
    capsys.readouterr()
    name = f"hf:{tmp_path / 'vit'}"
    out = tmp_path / "set"
    ran = dpd(
        monkeypatch, capsys, data, "--method", "k-center", "--ipc", 4, "--extractor", name, "--out", out, "--json"
    )
    assert ran.code == 0, ran.err
    scenes = read_scenes(data, part="train")
    extractor = build_extractor(name, scenes)
    rows = select("k-center", scenes, 4, 0, extractor.features(scenes.images))
    np.testing.assert_array_equal(read_scenes(out, part="all").images, scenes.images[rows])
    assert json.loads(ran.out)["extractor"] == extractor.description
    assert str(tmp_path) not in (out / "dataset.json").read_text()


def test_features_of_the_own_extractor(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = partial(own.own_extractor, steps=3)
    monkeypatch.setattr(own, "own_extractor", short)
    stages: list[str] = []

    def stage(title: str) -> object:
        return lambda done, total: stages.append(title)

    result = select_set(
        data,
        tmp_path / "set",
        method="herding",
        ipc=4,
        cache=tmp_path / "cache",
        progress=stage,  # type: ignore[arg-type]
    )
    scenes = read_scenes(data, part="train")
    rows = select("herding", scenes, 4, 0, short(scenes, tmp_path / "cache").features(scenes.images))
    np.testing.assert_array_equal(read_scenes(tmp_path / "set", part="all").images, scenes.images[rows])
    assert result.extractor == json.loads((tmp_path / "set" / "dataset.json").read_text())["extractor"]
    assert stages == ["training the extractor own"] * 3 + ["writing"] * 12


def test_a_killed_one_goes_on_and_only_with_the_same_settings(data: Path, tmp_path: Path) -> None:
    scenes = read_scenes(data, part="train")
    rows = random_subset(scenes.labels, 3, 0)
    out, about = tmp_path / "set", {"method": "random", "seed": 0}

    def kill(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_folder(scenes, rows, out, about, kill)
    assert not (out / "dataset.json").exists()
    with pytest.raises(OutputFolderError, match="another seed"):
        write_folder(scenes, rows, out, about | {"seed": 1})
    assert write_folder(scenes, rows, out, about) == hash_by_hand(out)
    assert (out / "dataset.json").exists()
    assert not (out / "state.jsonl").exists()
