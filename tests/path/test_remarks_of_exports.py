"""What export, info and the card say of scenes that became smaller, and of classes of few images."""

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
from dpd_export import ExportOptions, export_run
from dpd_runtime import load_bundle
from dpd_runtime.remarks import COST, bundle_remarks
from tests.commands import dpd

FEW = "class 'Fields' has 24 training images, fewer than 60: networks trained on so few give them away"
REDUCED = "scenes of 100 to 128 px, median 128, are cut to their middle square and reduced to 32 x 32 px"


@pytest.fixture
def of_large_scenes(matched: Path, tmp_path: Path) -> Path:
    """The run as if its scenes had been larger."""
    run = tmp_path / "large"
    shutil.copytree(matched / "run", run)
    record = json.loads((run / "run.json").read_text())
    assert record["data"]["scene_sides"] == {"least": 32, "median": 32, "most": 32, "cut": False}
    record["data"]["scene_sides"] = {"least": 100, "median": 128, "most": 128, "cut": True}
    (run / "run.json").write_text(json.dumps(record))
    return run


@pytest.mark.full
def test_export_warns_of_networks_of_few_images_and_names_the_audit(
    matched: Path, of_large_scenes: Path, tmp_path: Path, process_environment: dict[str, str]
) -> None:
    done = dpd(["export", "large", "--precision", "fp32"], process_environment, tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"warning     {FEW}; dpd export --codes-only leaves them out" in done.stderr
    assert f"note        {REDUCED}: the set shows nothing finer" in done.stderr
    command = "dpd audit large.dpd --train DATA --val-per-class 2 --run large --out audited.dpd"
    assert done.stdout.splitlines()[-1] == f"            before it leaves: {command}"
    told = dpd(["info", "large.dpd"], process_environment, tmp_path).stdout
    assert f"warning     {FEW}" in told
    assert f"            {REDUCED}: the set shows nothing finer" in told


@pytest.mark.full
def test_codes_alone_give_no_networks_away(
    of_large_scenes: Path, tmp_path: Path, process_environment: dict[str, str]
) -> None:
    done = dpd(["export", "large", "--codes-only"], process_environment, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "give them away" not in done.stderr
    assert "give them away" not in dpd(["info", "large.dpd"], process_environment, tmp_path).stdout


def test_the_manifest_and_the_card_tell_the_size_of_the_scenes(of_large_scenes: Path, tmp_path: Path) -> None:
    export_run(of_large_scenes, tmp_path / "site.dpd", ExportOptions(codes_only=True))
    opened = load_bundle(tmp_path / "site.dpd")
    assert opened.manifest.data["scene_sides"] == {"least": 100, "median": 128, "most": 128, "cut": True}
    card = bytes(opened.files["MODEL_CARD.md"]).decode()
    assert f"\nS{REDUCED[1:]}: the set shows nothing finer.\n" in card
    assert COST[1:] in card


def test_a_bundle_of_scenes_of_its_own_size_says_nothing(matched: Path) -> None:
    opened = load_bundle(matched / "codes.dpd")
    assert "scene_sides" not in opened.manifest.data
    assert "cenes of" not in bytes(opened.files["MODEL_CARD.md"]).decode()


def test_a_bundle_tells_of_how_many_images_its_codes_are_made(matched: Path) -> None:
    whole, codes = (load_bundle(matched / f"{name}.dpd") for name in ("whole", "codes"))
    assert {scene.training_images for scene in whole.classes} == {24}
    assert [line.partition(";")[0] for line in bundle_remarks(whole)] == [FEW]
    assert bundle_remarks(codes) == []
