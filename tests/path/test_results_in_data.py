"""`cd scenes; dpd train . --out run`: results of every kind inside the images that they were made from."""

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("diffusers")
from dpd_distill.distillation import Asked, Distillation
from dpd_eval.selection import write_folder
from dpd_neighbours.swimdiff.folder import save_encoder
from dpd_private.request import PrivateRequest
from dpd_runtime.classifier import images_below
from dpd_runtime.errors import DataError
from dpd_runtime.image_folders import made_by_dpd
from dpd_runtime.set_state import State
from dpd_train.config import TrainConfig
from dpd_train.networks import ResNet, ResNetConfig
from dpd_train.run import match_config
from dpd_train.scene_set import fingerprint
from dpd_train.scenes import open_scenes, read_scenes
from tests.commands import dpd as run_dpd
from tests.painted import greys, paint, tree
from tests.teacher import write_teacher

Make = Callable[[Path, Path, Path], object]
"""(where, a run of dpd train, folder of images) → makes a result there."""


def unfinished_run(out: Path, run: Path, data: Path) -> None:
    (out / "checkpoints").mkdir(parents=True)
    (out / "private").mkdir()
    match_config(out, TrainConfig(), fingerprint(read_scenes(data, part="all")), data)
    paint(out / "samples" / "matching.png", 50)


def chosen_set(out: Path, run: Path, data: Path) -> None:
    scenes = read_scenes(data, part="all")
    write_folder(scenes, [0, 4], out, {"seed": 0, "method": "random"})


def unfinished_set(out: Path, run: Path, data: Path) -> None:
    header = {"bundle": None, "sampler": None, "seed": 0, "classes": ["Alpha", "Beta"]}
    paint(out / "Alpha" / "Alpha_00000.png", 50)
    State(out, header, 1)


def bundle_folder(out: Path, run: Path, data: Path) -> None:
    from dpd_runtime import embedded_bundle

    with zipfile.ZipFile(embedded_bundle()) as bundle:
        bundle.extractall(out)


def classifier(out: Path, run: Path, data: Path) -> None:
    write_teacher(out.parent).rename(out)


def distillation(out: Path, run: Path, data: Path) -> None:
    from tests.path.test_distill import COUNTED, PLAN

    asked = Asked(data=str(data), out=str(out.with_name("site.dpd")))
    Distillation(folder=out, asked=asked, notes=(), plan=PLAN, **COUNTED).store()
    paint(out / "set" / "Alpha" / "a.png", 50)


def private_distillation(out: Path, run: Path, data: Path) -> None:
    asked = PrivateRequest(data=str(data), out=str(out.with_name("site.dpd")), epsilon=1.0, counts={"Alpha": 4})
    asked.store()
    asked.folder.rename(out)


def encoder(out: Path, run: Path, data: Path) -> None:
    save_encoder(ResNet(ResNetConfig(num_classes=2, widths=(4,), blocks=(1,))), out, {"resolution": 64})


def base(out: Path, run: Path, data: Path) -> None:
    import dpd_train

    shutil.copytree(Path(dpd_train.__file__).parent / "data" / "nano", out)


RESULTS: dict[str, tuple[str, Make]] = {
    "run": ("a run of dpd train", lambda out, run, data: shutil.copytree(run, out)),
    "interrupted": ("a run of dpd train", unfinished_run),
    "chosen": ("a distilled set", chosen_set),
    "begun": ("a distilled set", unfinished_set),
    "bundle": ("a bundle", bundle_folder),
    "model": ("a classifier of dpd fit", classifier),
    "site-run": ("a run of dpd distill", distillation),
    "private-run": ("a run of dpd private", private_distillation),
    "encoder": ("an encoder", encoder),
    "base": ("a base of dpd pretrain", base),
}


@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.parametrize("place", ["", "train", "train/Alpha"])
def test_results_are_no_images(
    tmp_path: Path, tiny_trained: Path, name: str, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    what, make = RESULTS[name]
    data = tmp_path / "scenes"
    images = tree(data / "train" if place else data)
    make(tmp_path / name, tiny_trained, images)
    out = data / place / name
    shutil.move(tmp_path / name, out)
    assert made_by_dpd(out) == what
    caplog.clear()  # what other packages say when they are imported
    for _ in range(2):
        assert open_scenes(data).counts("all") == {"Alpha": 4, "Beta": 4}
        assert greys(read_scenes(data, part="all")) == [0, 1, 2, 3, 100, 101, 102, 103]
    line = f"{out} is {what}: it is passed over"
    assert [record.getMessage() for record in caplog.records] == [line]
    assert len(images_below(data)) == 8
    assert [record.getMessage() for record in caplog.records] == [line, line]


def test_only_our_records_are_taken_for_ours(tmp_path: Path) -> None:
    for name in ("run.json", "plan.json", "model.json", "bundle.json", "dataset.json", "state.jsonl"):
        for content in ('{"config": 1}', "[]", "{", '{"made_with": {"bundle": 1}}', ""):
            (tmp_path / name).write_text(content, encoding="utf-8")
            assert made_by_dpd(tmp_path) is None, (name, content)
    tree(tmp_path)
    assert open_scenes(tmp_path).counts("all") == {"Alpha": 4, "Beta": 4}


def test_a_run_is_no_folder_of_images(tiny_trained: Path) -> None:
    with pytest.raises(DataError, match="is a run of dpd train, and holds no class folders; give the folder of the"):
        open_scenes(tiny_trained).counts("all")


def test_a_set_is_data_by_itself_and_as_a_part(tmp_path: Path) -> None:
    chosen_set(tmp_path / "set", tmp_path, tree(tmp_path / "scenes"))
    assert open_scenes(tmp_path / "set").counts("all") == {"Alpha": 1, "Beta": 1}
    shutil.move(tmp_path / "set", tmp_path / "both" / "train")
    tree(tmp_path / "both" / "test", count=3)
    assert open_scenes(tmp_path / "both").counts("all") == {"Alpha": 4, "Beta": 4}


def test_pictures_are_not_written_among_the_images(tmp_path: Path, process_environment: dict[str, str]) -> None:
    write_teacher(tmp_path)
    data = tree(tmp_path / "scenes")
    done = run_dpd(["predict", "teacher", "scenes", "--sheet", "scenes/sheet.png"], process_environment, tmp_path)
    assert done.returncode == 2
    assert "--sheet scenes/sheet.png: is inside scenes, and would be read with its images" in done.stderr
    tree(tmp_path / "set")
    for private, why in (("scenes", "would be read with its images"), ("set", "which would leave with it")):
        given = ["audit", "set", "--train", "scenes", "--holdout", str(data), "--private", f"{private}/pairs"]
        done = run_dpd(given, process_environment, tmp_path)
        assert done.returncode == 2
        assert f"--private {private}/pairs: is inside {private}, " in done.stderr
        assert why in done.stderr
