"""`dpd distill` on drawn scenes: killed and continued, repeated by its plan, and what it refuses."""

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("diffusers")
import dpd_eval.audit as auditing
from dpd_distill.distillation import BEGUN
from dpd_distill.plan import DistillPlan
from dpd_runtime import load_bundle
from dpd_runtime.files import worked_in
from dpd_train.drawn_scenes import write_scenes
from dpd_train.model_files import model_hash
from tests.commands import Done
from tests.commands import dpd as run_dpd
from tests.path.short_distill import shorten
from tests.path.test_examples import code_cells
from tests.tiny import drawn_scenes, scenes_of_bands, tiny_base
from tests.unit.train.test_published import resnet, saved

STEPS = [f"{name}steps" for name in ("", "matching_", "teacher_", "latent_classifier_", "perceptual_", "vae_")]
COUNTED = {"threads": 1, "ipc": 10, "codes_only": False, "images": 1, "classes": 1, "judged_ipc": 1}
SHORT = "tests.path.short_distill:short_main"
PLAN = DistillPlan(**dict.fromkeys(STEPS, 1), pairs=2, seconds={})
PLANNED = COUNTED | {"notes": [], "plan": asdict(PLAN), "folder": None}


def dpd(
    folder: Path, environment: dict[str, str], *arguments: str, command: str = "distill", kill: str = "never"
) -> Done:
    """Run `dpd distill`, shortened unless it ends at the start anyway."""
    environment = environment | {"XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    if kill == "at the start":
        return run_dpd([command, *arguments], environment, folder)
    return run_dpd([kill, command, *arguments], environment, folder, command=SHORT, with_pytorch=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distill")
    tiny_base(folder)
    drawn_scenes(folder / "scenes", per_class=24)
    drawn_scenes(folder / "heldout", per_class=4, seed=500)
    return folder


def base_of(folder: Path) -> str:
    return str(folder / "base")


def test_a_killed_distillation_continues(folder: Path, process_environment: dict[str, str]) -> None:
    given = ("--base", base_of(folder), "--ipc", "2", "--codes-only", "--threads", "1")
    begun = dpd(folder, process_environment, "scenes", "--out", "short.dpd", *given, kill="matching:4")
    assert begun.returncode == -9, begun.stderr
    assert "6 of matching" in begun.stderr
    assert not (folder / "short.dpd").exists()
    done = dpd(folder, process_environment, "--resume", "--out", "short.dpd", "--json")
    assert done.stdout, done.stderr
    result = json.loads(done.stdout)
    assert done.returncode == (4 if result["verdict"] == "FAIL" else 0), done.stderr
    made = load_bundle(folder / "short.dpd")
    assert (made.hash, made.manifest.audit) == (result["bundle_hash"], result["verdict"])
    assert made.manifest.codes_only


def test_a_quick_look_compares_one_pair_of_students_and_is_not_audited(
    folder: Path, process_environment: dict[str, str]
) -> None:
    """A published network that is found watches, and judges where no other one is there."""
    eyes = saved(folder / "networks" / "eyes", resnet)
    (eyes / "README.md").write_text("---\nlicense: mit\n---\n")
    given = ("--base", base_of(folder), "--ipc", "2", "--quick", "--threads", "1")
    environment = process_environment | {"DPD_NETWORKS": str(folder / "networks")}
    done = dpd(folder, environment, "scenes", "--out", "look.dpd", *given)
    assert done.returncode == 0, done.stderr
    said = "note          a quick look: stages are short, one pair of students is compared, and nothing is audited"
    assert said in done.stderr
    assert done.stderr.index("data          132 training images of 6 classes") < done.stderr.index(said)
    assert (
        "note          hf:eyes watches beside the run's own networks; --watchers own leaves published ones out"
        in done.stderr
    )
    assert "note          hf:eyes judges the set beside convnet, although it watched" in done.stderr
    assert "quick look    not audited" in done.stdout
    for arm in ("the set, 2 images per class", "2 real images per class, drawn at random", "all real images"):
        assert len(re.findall(rf"^    {arm} +\d+\.\d %$", done.stdout, re.MULTILINE)) == 2, done.stdout
    students = [line for line in done.stdout.splitlines() if line.endswith("trained on")]
    assert students == ["  convnet from nothing, trained on", "  eyes, whose last layer is fitted, trained on"]
    result = json.loads((folder / "look-run" / "result.json").read_text())
    assert set(result["planned"]) == set(result["spent"])
    assert result["spent"]["judging"] > 0
    assert sum(result["spent"].values()) == pytest.approx(result["seconds"], abs=2)
    made = load_bundle(folder / "look.dpd").manifest
    assert (made.audit, made.codes_only) == ("unaudited", True)
    assert (folder / "look-run" / "set" / "contact_sheet.png").is_file()
    run = json.loads((folder / "look-run" / "training" / "run.json").read_text())
    assert run["watchers"] == [{"name": "hf:eyes", "weights_sha256": model_hash(eyes), "licence": "mit"}]
    assert run["config"]["watchers"] == "own,hf:eyes"
    again = run_dpd(["report", "look-run", "--out", "again.html"], process_environment, folder)
    assert again.returncode == 0, again.stderr
    assert (folder / "again.html").read_bytes() == (folder / "look-run" / "report.html").read_bytes()
    refused = run_dpd(["generate", "look.dpd", "--require", "audit", "--out", "set"], process_environment, folder)
    assert refused.returncode == 3, refused.stderr


def test_a_plan_alone_writes_nothing_and_one_that_does_not_fit_is_refused(
    folder: Path, process_environment: dict[str, str]
) -> None:
    given = ("scenes", "--base", base_of(folder), "--out", "planned.dpd", "--ipc", "2", "--threads", "1")
    done = dpd(folder, process_environment, *given, "--plan-only", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["total"] == pytest.approx(sum(plan["seconds"].values()))
    assert plan["longest"] == pytest.approx(plan["total"] + sum(plan["perhaps"].values()))
    assert 0 < plan["idle"] <= plan["total"] * 1.001
    shown = dpd(folder, process_environment, *given, "--plan-only", "--resolution", "16")
    assert "note          scenes of 32 px are reduced to 16 x 16 px, as --resolution says" in shown.stdout
    assert "  matching  " in shown.stdout
    assert re.search(r"  VAE decoder .*  more, if the teacher loses over 5 points by the VAE", shown.stdout)
    assert shown.stdout.startswith("data          132 training images of 6 classes\n")
    assert "--resume" not in shown.stdout + shown.stderr, "there is nothing to continue"
    refused = dpd(folder, process_environment, *given, "--minutes", "0.001")
    assert refused.returncode == 2, refused.stderr
    assert re.search(
        r"--minutes 0\.001: 6 classes need at least (\d+) minutes .* give --minutes \1, or", refused.stderr
    )
    assert not (folder / "planned-run").exists()


def test_watchers_of_classes_with_too_few_images_are_refused_at_once(
    folder: Path, process_environment: dict[str, str]
) -> None:
    drawn_scenes(folder / "few", per_class=12)
    saved(folder / "eyes", resnet)
    given = ("few", "--base", base_of(folder), "--out", "few.dpd", "--watchers", "own,hf:eyes")
    refused = dpd(folder, process_environment, *given, "--plan-only")
    assert refused.returncode == 2, refused.stderr
    assert "hf:eyes: class 'Fields' has 11 training images, too few for matched codes, which need 20" in (
        refused.stderr.replace(str(folder) + "/", "")
    )
    assert "measures" not in refused.stdout + refused.stderr


@pytest.mark.full
def test_a_distillation_killed_in_three_stages_ends_with_the_same_codes(
    folder: Path, process_environment: dict[str, str]
) -> None:
    given = ("--base", base_of(folder), "--ipc", "3", "--no-codes-only", "--threads", "1")
    given += ("--holdout", "heldout")
    begun = dpd(folder, process_environment, "scenes", "--out", "site.dpd", *given, kill="matching:4")
    assert begun.returncode == -9, begun.stderr
    assert "6 of matching" in begun.stderr
    assert "note          the audit compares with 24 images; with so few a WARN is to be expected" in begun.stderr
    assert "note          little time: stages are shortened, and 2 pairs" in begun.stderr
    for kill in ("exporting:1", "training students, %:2"):
        killed = dpd(folder, process_environment, "--resume", "--out", "site.dpd", kill=kill)
        assert killed.returncode == -9, killed.stderr
        assert not (folder / "site.dpd").exists()
    done = dpd(folder, process_environment, "--resume", "--out", "site.dpd", "--json")
    result = json.loads(done.stdout)
    assert done.returncode == (4 if result["verdict"] == "FAIL" else 0), done.stderr
    assert load_bundle(folder / "site.dpd").manifest.audit == result["verdict"]
    assert load_bundle(folder / "site.dpd").hash == result["bundle_hash"]
    assert (result["prototypes"], result["judged"]["arms"][0]["ipc"]) == ("matched", 3)
    assert {arm["arm"] for arm in result["judged"]["arms"]} == {"set", "random", "herding"}
    page = (folder / "site-run" / "report.html").read_text(encoding="utf-8")
    assert str(folder) not in page
    assert len(list((folder / "site-run" / "set" / "River").iterdir())) == 3

    options = ("--base", base_of(folder), "--plan", "site-run", "--codes-only")
    again = dpd(folder, process_environment, "scenes", "--out", "again.dpd", *options)
    assert again.returncode in (0, 4), again.stderr
    small = load_bundle(folder / "again.dpd")
    assert small.manifest.codes_only
    assert [name for name in small.files if name.startswith(("unet", "classifier", "prompts"))] == []
    codes = [folder / f"{name}-run" / "training" / "prototypes.safetensors" for name in ("site", "again")]
    assert codes[0].read_bytes() == codes[1].read_bytes()
    assert "look at       " in again.stdout
    finished = dpd(folder, process_environment, "--resume", "--out", "again.dpd")
    assert finished.stdout == again.stdout
    assert f"data          {folder / 'scenes'}, as the run folder says" in finished.stderr
    assert f"base          {base_of(folder)}" in finished.stderr


@pytest.mark.parametrize("stored", BEGUN)
@pytest.mark.parametrize("target", ["../thesis", "thesis", "elsewhere.dpd"])
def test_a_run_folder_of_somebody_else_replaces_nothing(
    target: str, stored: str, folder: Path, tmp_path: Path, process_environment: dict[str, str]
) -> None:
    """It was made with --out TARGET, or says so."""
    (tmp_path / "work" / "thesis").mkdir(parents=True)
    (tmp_path / "thesis").mkdir()
    for place in ("thesis", "work/thesis"):
        (tmp_path / place / "chapter.txt").write_text("years of work")
    run = tmp_path / "work" / "site-run"
    run.mkdir()
    asked = {"data": str(folder / "scenes"), "out": target, "base": base_of(folder)}
    content = PLANNED | {"asked": asked} if stored == "plan.json" else asked | {"dp": 10.0}
    (run / stored).write_text(json.dumps(content))
    command = BEGUN[stored]
    resumed = ("--resume", "--out", "site.dpd")
    done = dpd(tmp_path / "work", process_environment, *resumed, command=command, kill="at the start")
    assert done.returncode == 2, done.stderr
    assert f"site-run: was begun with --out {target}, not site.dpd; nothing was changed" in done.stderr
    assert [path.read_text() for path in sorted(tmp_path.rglob("chapter.txt"))] == ["years of work"] * 2
    assert not (tmp_path / "work" / "site.dpd").exists()


def test_a_repeated_plan_says_what_differs_from_its_run(folder: Path, process_environment: dict[str, str]) -> None:
    asked = {"data": str(folder / "scenes"), "out": "before.dpd", "base": base_of(folder), "watchers": "own"}
    (folder / "before-run").mkdir()
    (folder / "before-run" / "plan.json").write_text(json.dumps(PLANNED | {"asked": asked}))
    given = ("scenes", "--base", "base", "--out", "after.dpd", "--plan", "before-run", "--plan-only")
    done = dpd(folder, process_environment, *given, "--resolution", "16", kill="at the start")
    assert done.returncode == 0, done.stderr
    said = [line.partition("before-run had ")[2] for line in done.stdout.splitlines() if "before-run had" in line]
    assert said == [
        "no --resolution, not 16: its times are not those of this run",
        "1 training image, not 132: its times are not those of this run",
    ]


def test_a_run_folder_with_a_place_that_is_no_text_is_refused(
    tmp_path: Path, process_environment: dict[str, str]
) -> None:
    (tmp_path / "site-run").mkdir()
    (tmp_path / "site-run" / "plan.json").write_text(
        json.dumps(PLANNED | {"asked": {"data": "x", "out": ["site.dpd"]}})
    )
    done = dpd(tmp_path, process_environment, "--resume", "--out", "site.dpd", kill="at the start")
    assert done.returncode == 2
    assert "site-run: was made by another version of dpd (a place that is no text)" in done.stderr


def test_a_distillation_that_still_runs_is_not_continued_beside_itself(
    tmp_path: Path, process_environment: dict[str, str]
) -> None:
    (tmp_path / "site-run").mkdir()
    stored = PLANNED | {"asked": {"data": "scenes", "out": "site.dpd"}}
    (tmp_path / "site-run" / "plan.json").write_text(json.dumps(stored))
    with worked_in(tmp_path / "site-run", "dpd distill"):
        done = dpd(tmp_path, process_environment, "--resume", "--out", "site.dpd", kill="at the start")
    assert done.returncode == 2
    assert "site-run: another dpd distill works there; wait until it ends" in done.stderr
    assert [path.name for path in (tmp_path / "site-run").iterdir()] == ["plan.json"]


FEW = ", ".join(f"{name}=2" for name in (*STEPS, "watcher_steps"))


def run_notebook() -> None:
    shorten()
    auditing.FEWEST_IMAGES = 20
    names: dict[str, Any] = {}
    for cell in code_cells("distill_your_scenes.ipynb"):
        exec(
            compile(
                cell.replace("IPC = 10", "IPC = 3").replace("steps=200, matching_steps=150", FEW),
                "notebook",
                "exec",
            ),
            names,
        )
    print(names["result"].verdict)


@pytest.mark.full
def test_the_notebook_makes_an_audited_bundle_by_the_same_steps(
    folder: Path, tmp_path: Path, process_environment: dict[str, str]
) -> None:
    shutil.copytree(folder / "scenes", tmp_path / "scenes")
    environment = process_environment | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = run_dpd([], environment, tmp_path, command=f"{__name__}:run_notebook", with_pytorch=True)
    assert done.returncode == 0, done.stderr
    assert load_bundle(tmp_path / "site.dpd").manifest.audit == done.stdout.split()[-1]
    assert len(list((tmp_path / "set" / "River").iterdir())) == 3


@pytest.mark.full
def test_few_images_of_128_px_become_a_codes_only_bundle_by_the_shipped_base(
    folder: Path, process_environment: dict[str, str]
) -> None:
    write_scenes(folder / "large", per_class=24, seed=0, resolution=128)
    given = ("--resolution", "128", "--ipc", "2", "--threads", "1")
    done = dpd(folder, process_environment, "large", "--out", "large.dpd", *given)
    assert done.returncode in (0, 4), done.stderr
    assert "training images, fewer than 60: 2 codes per class in a codes-only bundle" in done.stderr
    made = load_bundle(folder / "large.dpd").manifest
    assert (made.image_shape, made.codes_only) == ((128, 128, 3), True)
    with Image.open(next((folder / "large-run" / "set" / "River").iterdir())) as picture:
        assert picture.size == (128, 128)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_scenes_of_four_bands_are_distilled_judged_and_audited(
    folder: Path, process_environment: dict[str, str]
) -> None:
    pytest.importorskip("rasterio")
    pytest.importorskip("tifffile")
    scenes_of_bands(folder / "banded", 4, 26)
    given = ("--base", base_of(folder), "--ipc", "2", "--threads", "1", "--bands", "all")
    done = dpd(folder, process_environment, "banded", "--out", "bands.dpd", *given, "--json")
    result = json.loads(done.stdout)
    assert done.returncode == (4 if result["verdict"] == "FAIL" else 0), done.stderr
    assert {arm["arm"] for arm in result["judged"]["arms"]} >= {"random", "herding"}
    made = load_bundle(folder / "bands.dpd").manifest
    assert [band.name for band in made.bands] == ["B2", "B3", "B4", "B8"]
    assert made.audit == result["verdict"]
    assert len([*(folder / "bands-run" / "set").rglob("*.tif")]) == 2 * 6
    page = (folder / "bands-run" / "report.html").read_text(encoding="utf-8")
    assert "4 bands, shown by B4, B3 and B2 as red, green and blue" in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "new.dpd"], "DATA is missing"),
        (["scenes", "--out", "new.dpd", "--minutes", "0"], "--minutes is 0"),
        (["scenes", "--out", "new.dpd", "--ipc", "0"], "--ipc is 0"),
        (["nothing", "--out", "new.dpd"], "nothing"),
        (["scenes", "--out", "ne\u200bw.dpd"], "the bundle is called after it; give a name of at most 200 letters"),
        (
            ["scenes", "--out", "new.dpd", "--holdout", "half"],
            "--holdout: its classes differ from those of DATA: Fields",
        ),
        (["few", "--out", "new.dpd"], "the validation part of DATA: class Fields has 1 usable image, near duplicates"),
        (
            ["few", "--out", "new.dpd"],
            "at least 2 per class; --val-per-class holds out others, and --holdout brings some",
        ),
        (
            ["scenes", "--out", "new.dpd", "--holdout", "scenes"],
            "images are training images; give images that were not",
        ),
        (["scenes", "--out", "new.dpd", "--plan", "scenes"], "scenes: holds no distillation"),
        (["damaged", "--out", "new.dpd"], "of 40 images of a sample will be set aside, first River/River_0004.png: "),
        (
            ["heldout", "--out", "new.dpd", "--codes-only"],
            "training images, too few for matched codes, which need 20; add some",
        ),
        (["scenes", "--out", "new.dpd", "--bands", "all", "--no-codes-only"], "--no-codes-only samples red, green and"),
        (["--resume", "--out", "new.dpd"], "new-run: holds no distillation; begin one with dpd distill DATA"),
        (["--resume", "--out", "new.dpd", "--ipc", "3"], "give only: dpd distill --resume --out new.dpd"),
    ],
)
def test_what_cannot_be_distilled_is_said_before_anything_is_written(
    arguments: list[str], words: str, folder: Path, process_environment: dict[str, str]
) -> None:
    shutil.copytree(folder / "heldout" / "River", folder / "half" / "River", dirs_exist_ok=True)
    shutil.copytree(folder / "heldout" / "Road", folder / "half" / "Road", dirs_exist_ok=True)
    for source in (folder / "scenes").iterdir():
        for path in sorted(source.iterdir())[:10]:
            (folder / "few" / source.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / "few" / source.name)
    for name in ("River", "Road"):
        shutil.copytree(folder / "scenes" / name, folder / "damaged" / name, dirs_exist_ok=True)
        for path in sorted((folder / "damaged" / name).iterdir())[4:]:
            path.write_bytes(b"cut short")
    done = dpd(folder, process_environment, *arguments, kill="at the start")
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert not (folder / "new-run").exists()
