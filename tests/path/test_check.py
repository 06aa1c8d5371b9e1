"""`dpd check` on drawn scenes with a damaged file and with a test part that repeats training images."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("diffusers")
from tests.commands import Done
from tests.commands import dpd as run_dpd
from tests.tiny import drawn_scenes, scenes_of_bands, tiny_base


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("check")
    tiny_base(folder)
    drawn_scenes(folder / "scenes" / "train", per_class=24)
    drawn_scenes(folder / "scenes" / "test", per_class=2, seed=9)
    shutil.copy(next((folder / "scenes" / "train" / "River").iterdir()), folder / "scenes" / "test" / "River" / "x.png")
    next((folder / "scenes" / "train" / "Road").iterdir()).write_bytes(b"cut short")
    return folder


def check(folder: Path, environment: dict[str, str], *arguments: str) -> Done:
    environment = environment | {"XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    return run_dpd(["check", *arguments, "--base", "base", "--threads", "1"], environment, folder, with_pytorch=True)


def test_it_says_what_the_data_are_like_and_writes_nothing(folder: Path, process_environment: dict[str, str]) -> None:
    before = sorted((folder / "scenes").rglob("*"))
    done = check(folder, process_environment, "scenes")
    assert done.returncode == 0, done.stderr
    said = done.stdout
    assert "data          6 classes with 22 training images, 132 in all" in said
    assert "  set aside   1, such as train/Road/" in said
    assert "shared        1 file of test shows scenes of train" in said
    assert "note          scenes of" not in said, "they have the size of the base"
    assert "note          the audit compares with 12 images" in said
    assert "dpd distill --quick: " in said
    assert said.splitlines()[-1] == "next          dpd distill scenes --base base --out look.dpd --quick"
    assert sorted((folder / "scenes").rglob("*")) == before


def test_json_has_the_same(folder: Path, process_environment: dict[str, str]) -> None:
    done = check(folder, process_environment, "scenes", "--json", "--val-per-class", "4", "--resolution", "16")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["train"]["River"] == 20
    assert found["shared"] == [{"part": "train", "with": "test", "files": 1}]
    assert found["notes"][0].startswith(
        "scenes of 32 px are reduced to 16 x 16 px, as --resolution says: the set shows"
    )
    assert found["sample"]["sides"] == {"least": 32, "median": 32, "most": 32, "cut": False}
    assert found["seconds"]["quick"] < found["seconds"]["usual"]
    assert all(0 < found["idle_seconds"][name] <= 1.001 * seconds for name, seconds in found["seconds"].items())
    assert len(found["sample"]["set_aside"]) == found["sample"]["images"] - found["sample"]["usable"]


def test_the_data_card_keeps_the_answers(folder: Path, process_environment: dict[str, str]) -> None:
    shutil.copytree(folder / "scenes" / "train", folder / "kept")
    done = check(folder, process_environment, "kept", "--write")
    assert (done.returncode, list((folder / "kept").glob("*.toml"))) == (2, [])
    assert "--write: no option was given and none is suggested" in done.stderr
    done = check(folder, process_environment, "kept", "--val-per-class", "4", "--write", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["data_card"] == "kept/dpd.toml"
    card = (folder / "kept" / "dpd.toml").read_bytes()
    done = check(folder, process_environment, "kept", "--split", "names", "--write")
    assert done.returncode == 0, done.stderr
    assert "card          kept/dpd.toml: split names, val_per_class 4" in done.stdout
    assert done.stdout.splitlines()[-1] == "next          dpd distill kept --base base --out look.dpd --quick"
    assert (folder / "kept" / "dpd.toml").read_bytes() == card.replace(b"val", b'split = "names"\nval', 1)


def test_what_is_no_data_set_is_refused(folder: Path, process_environment: dict[str, str]) -> None:
    done = check(folder, process_environment, "nothing")
    assert done.returncode == 2, done.stderr
    assert "nothing: no such folder" in done.stderr


def test_classes_that_no_bundle_can_have_are_refused(folder: Path, process_environment: dict[str, str]) -> None:
    """`dpd distill` would refuse them later."""
    for name in ("River", "river"):
        drawn_scenes(folder / "alike" / name, per_class=1)
        for image in (folder / "alike" / name).rglob("*.png"):
            image.rename(folder / "alike" / name / image.name)
    done = check(folder, process_environment, "alike")
    assert done.returncode == 2, done.stdout
    assert "alike: classes 'River' and 'river' are one folder on some systems; rename one" in done.stderr


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_bands_are_planned_for_and_the_next_command_keeps_them(
    folder: Path, process_environment: dict[str, str]
) -> None:
    pytest.importorskip("rasterio")
    scenes_of_bands(folder / "radar", 1)
    done = check(folder, process_environment, "radar", "--bands", "all", "--stretch", "dB:-25:5")
    assert done.returncode == 0, done.stderr
    assert "note          images keep their bands: a codes-only bundle" in done.stdout
    last = "next          dpd distill radar --bands all --stretch dB:-25:5 --base base --out look.dpd --quick"
    assert done.stdout.splitlines()[-1] == last


def test_turned_copies_are_counted_once(folder: Path, process_environment: dict[str, str]) -> None:
    for image in drawn_scenes(folder / "drawn", per_class=24).rglob("*.png"):
        (folder / "copies" / image.parent.name).mkdir(parents=True, exist_ok=True)
        for turn in range(4):
            place = folder / "copies" / image.parent.name / f"{image.stem}_{turn}.png"
            Image.open(image).convert("RGB").rotate(90 * turn).save(place)
    said = {}
    for name in ("drawn", "copies"):
        done = check(folder, process_environment, name, "--json")
        assert done.returncode == 0, done.stderr
        said[name] = json.loads(done.stdout)
    assert said["copies"]["scenes"] == said["drawn"]["scenes"] == said["drawn"]["train"]
    assert said["copies"]["train"] == {name: 4 * count for name, count in said["drawn"]["train"].items()}
    first, *rest = said["copies"]["notes"]
    assert first.startswith("training part: 528 images, 132 distinct scenes; turned, mirrored and near duplicates")
    assert rest[:1] == said["drawn"]["notes"][:1], "the same codes-only bundle of as many codes"
    assert "has 22 training images, fewer than 60: 5 codes per class in a codes-only bundle" in rest[0]
    assert any(line.startswith("the audit compares with 48 images, 12 distinct scenes;") for line in rest)
