"""`dpd doctor` and `dpd bench` as a user runs them."""

import json
import os
from pathlib import Path

import pytest

from tests.commands import dpd
from tests.drawn import quick_bundle

pytest.importorskip("onnxruntime")


def test_doctor_prints_one_object(process_environment: dict[str, str], tmp_path: Path) -> None:
    done = dpd(["doctor", "--json"], process_environment, tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [entry["name"] for entry in found["providers"]] == ["cpu", "openvino", "cuda", "tensorrt", "tensorrt-rtx"]
    assert found["providers"][0]["usable"] is True
    assert found["machine"]["usable_cores"] >= 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("argument", ["nothing.dpd", "tensorrt", "no/folder"])
def test_doctor_does_not_try_what_is_not_there(
    argument: str, process_environment: dict[str, str], tmp_path: Path
) -> None:
    for more in ((), ("--json",)):
        done = dpd(["doctor", argument, *more], process_environment, tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"dpd: {argument}: no such bundle; give a .dpd file or a bundle folder\n"


@pytest.mark.parametrize("argument", ["notes.txt", "."])
def test_doctor_does_not_fall_ill(argument: str, process_environment: dict[str, str], tmp_path: Path) -> None:
    """Neither a broken bundle, nor a missing onnxruntime, nor torch that breaks on import stops it."""
    (tmp_path / "notes.txt").write_text("not a bundle")
    for name in ("onnxruntime", "torch"):
        (tmp_path / "absent" / name).mkdir(parents=True)
        (tmp_path / "absent" / name / "__init__.py").write_text("raise ImportError('broken here')")
    paths = os.pathsep.join([str(tmp_path / "absent"), process_environment["PYTHONPATH"]])
    done = dpd(["doctor", argument], process_environment | {"PYTHONPATH": paths}, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines if line.split()[0] in ("cpu", "tensorrt")] == [
        ["cpu", "no"],
        ["tensorrt", "no"],
    ]
    assert lines[-1].startswith("bundle ")


def test_bench_says_where_the_time_went(process_environment: dict[str, str], tmp_path: Path) -> None:
    done = dpd(
        ["bench", str(quick_bundle(tmp_path / "quick")), "--blocks", "2", "--json"],
        process_environment,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["sampled"]["images"], found["provider"]) == (20, "cpu")
    assert (found["decoded"], found["renoised"]) == (None, None), "this bundle samples every image"
    assert {name: entry["calls"] for name, entry in found["networks"].items()} == {
        "unet": 2,
        "decoder": 2,
        "latent_classifier": 2,
    }
    shares = sum(entry["share"] for entry in found["networks"].values())
    assert shares + found["outside_share"] == pytest.approx(1)
    assert 0 < found["outside_share"] < 0.9
    assert found["sampled"]["images_per_second"] == pytest.approx(20 / found["sampled"]["seconds"])
    assert 50e6 < found["peak_memory"] < 2e9
    refused = dpd(["bench", "--blocks", "0"], process_environment, tmp_path)
    assert refused.returncode == 2
    assert "blocks is 0" in refused.stderr


@pytest.mark.full
def test_bench_measures_each_kind_of_image_apart(process_environment: dict[str, str], tmp_path: Path) -> None:
    done = dpd(["bench", "--blocks", "1", "--json"], process_environment, tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    kinds = [found[kind] for kind in ("decoded", "renoised", "sampled")]
    assert [kind["images"] for kind in kinds] == [10, 10, 10]
    for kind in kinds:
        assert kind["images_per_second"] == pytest.approx(10 / kind["seconds"])
    # 15 steps, of which 11 guided: 26 evaluations; the last fifth, 3 steps, are all guided: 6
    assert [kind["network_calls"] for kind in kinds] == [0, 6, 26]
    assert found["decoded"]["seconds"] < found["renoised"]["seconds"] < found["sampled"]["seconds"]
    assert {name: entry["calls"] for name, entry in found["networks"].items()} == {
        "unet": 45,
        "decoder": 1,
        "latent_classifier": 3,
    }
    assert list(tmp_path.iterdir()) == []


def test_doctor_shows_no_control_characters_of_a_file_name(process_environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x\x1b[2J").write_bytes(b"")
    done = dpd(["doctor", "folder"], process_environment, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
