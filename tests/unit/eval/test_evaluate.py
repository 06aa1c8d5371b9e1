import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dpd_eval import EvaluateConfig, Evaluation, Recipe, StudentInfo, ratio_verdict
from dpd_eval import arms as plan
from dpd_eval import evaluate as compare
from dpd_eval.arms import plan_trainings
from dpd_eval.extractors import Extractor, own_extractor
from dpd_eval.inputs import open_compared, read_inputs
from dpd_eval.results import ONE_BUNDLE
from dpd_eval.selection import Seen
from dpd_eval.statistics import class_accuracy, overall_accuracy, t_interval
from dpd_eval.students import load_result
from dpd_runtime.errors import DataError, InputError
from dpd_train.compute import has_bfloat16
from dpd_train.reading import ImageOptions
from dpd_train.scene_set import SceneSet

SIZE = 16
COLOURS = {"Blue": (60, 90, 170), "Green": (70, 150, 80), "Red": (170, 80, 70)}
RECIPE = Recipe(
    name="tiny", steps=40, batch=16, optimizer="adamw", peak_rate=3e-3, warmup=5, shift=2, cutmix=0.3, precision="bf16"
)


def evaluate(sets: list[Path], **arguments: Any) -> Evaluation:
    """`dpd_eval.evaluate` with its inputs and the options of its config side by side."""
    options = {field.name: arguments.pop(field.name) for field in fields(EvaluateConfig) if field.name in arguments}
    recipe = options.pop("recipe", None)
    return compare(sets, EvaluateConfig(**options), recipe=recipe, **arguments)


def draw(
    root: Path,
    count: int,
    seed: int,
    classes: tuple[str, ...] = tuple(COLOURS),
    shuffled: bool = False,
    spread: float = 0,
) -> Path:
    """`count` images a class of noise around the class's colour; `shuffled` takes a random class's colour instead.

    spread: standard deviation of an image's own shift of colour; above some 40 the classes overlap.
    """
    rng = np.random.default_rng(seed)
    names = list(COLOURS)
    for name in classes:
        folder = root / name
        folder.mkdir(parents=True)
        for i in range(count):
            colour = COLOURS[names[rng.integers(3)]] if shuffled else COLOURS.get(name, (0, 0, 0))
            colour = rng.normal(colour, spread) if spread else colour
            pixels = np.clip(rng.normal(colour, 40, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{name}_{i:05d}.png")
    return root


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("scenes")
    return {
        "train": draw(root / "train", 30, 1),
        "test": draw(root / "test", 40, 2),
        "good": draw(root / "good", 12, 3),
        "other": draw(root / "other", 12, 4),
        "shuffled": draw(root / "shuffled", 12, 5, shuffled=True),
    }


def use_quick_extractor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extractor `own` after 30 steps instead of 1200."""

    def build(
        name: str, train: SceneSet, *, cache: Path, progress: Callable[[int, int], None], device: str
    ) -> Extractor:
        assert name == "own"
        return own_extractor(train, cache, progress, steps=30)

    monkeypatch.setattr(import_module("dpd_eval.evaluation"), "build_extractor", build)


def test_separable_set_does_well_and_shuffled_labels_do_not(folders, tmp_path):
    common = {
        "train": folders["train"],
        "test": folders["test"],
        "recipe": RECIPE,
        "pairs": 3,
        "cache": tmp_path,
        "metrics": False,
    }
    good = evaluate([folders["good"]], **common)
    bad = evaluate([folders["shuffled"]], **common)
    ours, real = good.arms
    assert (ours.arm, real.arm) == ("set", "random")
    assert (ours.ipc, ours.images, ours.seeds) == (12, 36, (0, 1, 2))
    assert ours.oa_mean > 0.95
    assert real.oa_mean > 0.95
    assert ours.oa_mean == pytest.approx(np.mean(ours.oa_runs))
    assert ours.aa == pytest.approx(ours.oa_mean)  # a balanced test part
    assert bad.arms[0].oa_mean < 0.7  # chance is 0.33; a judge that leaks labels would be near 1
    assert ratio_verdict(ours.oa_runs, real.oa_runs, 0.8).verdict == "met"
    assert bad.differences[0].difference.mean == pytest.approx(bad.arms[0].oa_mean - bad.arms[1].oa_mean)
    assert (bad.arms[0].cached, bad.arms[1].cached) == (0, 3)  # the random arm was trained by the first call
    again = json.loads(json.dumps(good.to_dict(), allow_nan=False))
    assert again["recipe"]["steps"] == 40
    assert again["students"]["convnet"]["multiply_adds"] > 0
    assert again["arms"][0]["oa_runs"] == list(ours.oa_runs)


@pytest.mark.full
def test_trainings_in_other_processes_tell_their_progress_and_end_at_once(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "POLL_SECONDS", 0.1)
    long = replace(RECIPE, steps=100_000)  # ten minutes
    told: list[tuple[float, int, str]] = []

    def interrupted(done: float, total: int, title: str) -> None:
        told.append((done, total, title))
        if done > 0:
            raise KeyboardInterrupt

    options = {"train": folders["train"], "test": folders["test"], "pairs": 2, "baselines": (), "metrics": False}
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        evaluate([folders["good"]], **options, recipe=long, jobs=2, cache=tmp_path, progress=interrupted)
    assert time.monotonic() - started < 60
    done, total, title = told[-1]
    assert 0 < done < 0.5
    assert (total, title) == (2, "set, IPC 12, convnet, pair 0")


def test_a_script_without_a_guard_can_use_several_processes(
    folders: dict[str, Path], tmp_path: Path, process_environment: dict[str, str]
) -> None:
    """A spawned process runs the script again, unless it is told not to; sending it its data then waits for ever."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from dataclasses import replace\n"
        "from dpd_eval import EvaluateConfig, evaluate, load_recipe\n"
        "train, test, made, cache = map(Path, sys.argv[1:])\n"
        "config = EvaluateConfig(baselines=(), metrics=False, pairs=2, ipc=(4,), jobs=2)\n"
        "recipe = replace(load_recipe('quick'), steps=2, warmup=0)\n"
        "found = evaluate([made], config, train=train, test=test, recipe=recipe, cache=cache)\n"
        "print('pairs', len(found.arms[0].oa_runs))\n",
        encoding="utf-8",
    )
    places = [folders[name] for name in ("train", "test", "good")]
    command = [sys.executable, str(script), *map(str, places), str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=process_environment, check=False)
    assert (done.returncode, done.stdout) == (0, "pairs 2\n"), done.stderr


@pytest.mark.full
def test_same_command_gives_the_same_numbers_with_any_number_of_jobs(folders, tmp_path):
    # labels that can not be learned well: the figures are then far from 1 and would show any difference
    arguments = {"train": folders["train"], "test": folders["test"], "recipe": RECIPE, "pairs": 2, "baselines": ()}
    arguments["metrics"] = False
    runs = [
        evaluate([folders["shuffled"]], **arguments, jobs=jobs, cache=tmp_path / str(i))
        for i, jobs in enumerate((1, 1, 2))
    ]
    confusions = [
        {path.stem: load_result(path.parent, path.stem).confusion.tolist() for path in (tmp_path / str(i)).iterdir()}
        for i in range(3)
    ]
    assert len(confusions[0]) == 2
    assert confusions[0] == confusions[1] == confusions[2]
    assert runs[0].arms[0].oa_runs == runs[2].arms[0].oa_runs
    assert len(set(runs[0].arms[0].oa_runs)) == 2  # pairs differ: the seed does reach the training
    assert runs[0].arms[0].cached == 0


def test_cache_is_reused_and_every_change_of_the_question_misses_it(folders, tmp_path):
    recipe = replace(RECIPE, steps=6, warmup=1)
    calls: list[str] = []

    def run(recipe: Recipe, ipc: int = 4, image_set: str = "good") -> tuple[float, ...]:
        calls.clear()
        result = evaluate(
            [folders[image_set]],
            train=folders["train"],
            test="val",
            ipc=(ipc,),
            recipe=recipe,
            pairs=1,
            baselines=(),
            metrics=False,
            cache=tmp_path,
            progress=lambda done, total, what: calls.append(what),
        )
        return result.arms[0].oa_runs

    first = run(recipe)
    assert calls
    assert run(recipe) == first
    assert not calls
    assert run(replace(recipe, name="renamed")) == first
    assert not calls
    for changed in ({"recipe": replace(recipe, steps=7)}, {"ipc": 5}, {"image_set": "other"}):
        run(**{"recipe": recipe, **changed})
        assert calls
    for path in tmp_path.iterdir():
        path.write_text(path.read_text()[:-20])  # damaged: trained again, not trusted
    assert run(recipe) == first
    assert calls


def test_pairs_take_the_sets_in_turn_and_small_ipc_takes_the_first_files(folders, tmp_path):
    recipe = replace(RECIPE, steps=6, warmup=1)
    common = {"train": folders["train"], "test": "val", "recipe": recipe, "baselines": (), "cache": tmp_path}
    common["metrics"] = False
    both = evaluate([folders["good"], folders["other"]], **common, pairs=3, ipc=(2, 4))
    assert [(arm.ipc, arm.images, len(arm.oa_runs)) for arm in both.arms] == [(2, 6, 3), (4, 12, 3)]
    first = evaluate([folders["good"]], **common, pairs=3, ipc=(4,)).arms[0]
    second = evaluate([folders["other"]], **common, pairs=3, ipc=(4,)).arms[0]
    assert both.arms[1].oa_runs == (first.oa_runs[0], second.oa_runs[1], first.oa_runs[2])
    assert (first.cached, second.cached) == (2, 1)
    prefix = tmp_path / "prefix"
    for name in COLOURS:
        (prefix / name).mkdir(parents=True)
        for i in range(2):
            file = f"{name}/{name}_{i:05d}.png"
            (prefix / file).write_bytes((folders["good"] / file).read_bytes())
    assert evaluate([prefix], **common, pairs=1).arms[0].cached == 1


def test_sets_of_several_bundles_give_an_interval_over_bundles(folders, tmp_path):
    recipe = replace(RECIPE, steps=6, warmup=1)
    sets = []
    for number, bundle in enumerate("aba"):
        sets.append(draw(tmp_path / f"set{number}", 4, 10 + number))
        (sets[-1] / "dataset.json").write_text(json.dumps({"bundle_hash": bundle}))
    common = {"train": folders["train"], "test": "val", "recipe": recipe, "cache": tmp_path / "c", "metrics": False}
    found = evaluate(sets, **common, pairs=6)
    ours, random = found.arms
    gaps = [a - b for a, b in zip(ours.oa_runs, random.oa_runs, strict=True)]  # of bundles a, b, a, a, b, a
    expected = t_interval([(gaps[0] + gaps[2] + gaps[3] + gaps[5]) / 4, (gaps[1] + gaps[4]) / 2])
    assert (found.repeated, found.differences[0].difference) == ("bundles", expected)
    assert found.verdicts[0].interval.n == 2
    assert any("2 bundles, at least 5 are needed" in note for note in found.notes)
    for few in (sets[::2], [*sets, folders["good"]]):  # one bundle; a folder that no bundle generated
        found = evaluate(few, **common, pairs=4)
        assert (found.repeated, found.differences[0].difference.n) == ("pairs", 4)
    assert ONE_BUNDLE in evaluate(sets[::2], **common, pairs=2).notes
    assert ONE_BUNDLE not in found.notes
    for bundle, folder in zip("ab", sets, strict=False):  # the same codes, in a bundle and in its signed copy
        (folder / "dataset.json").write_text(json.dumps({"bundle_hash": bundle, "prototypes_sha256": "c"}))
    assert evaluate(sets[:2], **common, pairs=2).repeated == "pairs"
    (sets[0] / "dataset.json").write_text("{")
    with pytest.raises(InputError, match=r"set0.*dataset\.json.*run the same dpd generate again"):
        evaluate(sets, **common, pairs=3)


def test_validation_part_is_held_out_of_the_baselines(folders, tmp_path):
    common = {"train": folders["train"], "test": "val", "recipe": replace(RECIPE, steps=2, warmup=0), "cache": tmp_path}
    common["metrics"] = False
    result = evaluate([folders["good"]], **common, pairs=1, val_per_class=10)
    assert (result.train_images, result.test_images, result.test_part, result.val_per_class) == (60, 30, "val", 10)
    slower = ("students computed in float32, as the processor has no instructions for bfloat16",)
    wanted = ("IPC 12: 1 pair, at least 5 are needed for a reported result",)
    assert result.notes == wanted + (() if has_bfloat16(torch.device("cpu")) else slower)
    with pytest.raises(DataError, match="class Blue has 20 real images, --ipc asks for 21"):
        evaluate([draw(tmp_path / "big", 21, 8)], **common, pairs=1, val_per_class=10, ipc=(21,))
    leaky = evaluate([folders["test"]], **{**common, "test": folders["test"]}, ipc=(2,), pairs=1, baselines=())
    assert leaky.notes[0].startswith("120 test images are also in SET")


def test_without_ipc_the_smallest_class_of_sets_and_real_images_decides(folders, tmp_path):
    few = draw(tmp_path / "few", 10, 9)  # 9 for training, 1 for validation
    found = evaluate(
        [folders["good"]], train=few, test=folders["test"], recipe=RECIPE, pairs=1, metrics=False, cache=tmp_path / "c"
    )
    assert {arm.arm: (arm.ipc, arm.images) for arm in found.arms} == {"set": (9, 27), "random": (9, 27)}
    assert "compared at IPC 9" in found.notes[0]
    with pytest.raises(DataError, match="class Blue has 9 real images, --ipc asks for 12"):
        evaluate([folders["good"]], train=few, test=folders["test"], recipe=RECIPE, ipc=(12,), metrics=False)


def test_bad_input_names_the_thing_and_the_way_out(folders, tmp_path):
    common = {"train": folders["train"], "test": "val", "recipe": RECIPE, "cache": tmp_path / "cache", "metrics": False}
    with pytest.raises(DataError, match=r"class Blue has 12 images, --ipc asks for 13: give --ipc 12 or less"):
        evaluate([folders["good"]], **common, ipc=(5, 13))
    strange = draw(tmp_path / "strange", 4, 6, classes=("Blue", "Red", "Sand"))
    with pytest.raises(
        DataError, match=r"strange: its classes differ from those of --train .*missing Green; additional Sand"
    ):
        evaluate([strange], **common)
    with pytest.raises(DataError, match=r"--test .*strange: its classes differ from those"):
        evaluate([folders["good"]], **{**common, "test": strange})
    for arguments, message in [
        (
            {"baselines": ("worst",)},
            "no baseline 'worst': there are random, herding, k-center, k-means, full, foreground, tdds",
        ),
        ({"students": ("vgg",)}, "no student 'vgg'"),
        ({"pairs": 0}, "--pairs is 0"),
        ({"ipc": (0,)}, "--ipc"),
        ({"ipc": (5, 5)}, "--ipc has a value twice"),
        ({"jobs": 0}, "--jobs is 0"),
        ({"at_least": 0.0}, "--at-least is 0.0"),
        ({"at_least": 0.9, "baselines": ()}, "--at-least 0.9 has no effect without --baselines"),
        ({"extractor": "own"}, "--extractor own has no effect"),
        ({"baselines": ("foreground", "foreground:a+b")}, "--baselines has a value twice: foreground, foreground"),
        ({"baselines": ("foreground:a",)}, "foreground:a: give two models with a plus"),
        ({"extractor": "mine", "metrics": True}, "no extractor 'mine'"),
        ({"students": ("hf:owner/none",)}, "hf download owner/none"),
    ]:
        with pytest.raises(InputError, match=message):
            evaluate([folders["good"]], **{**common, **arguments})
    with pytest.raises(InputError, match="no SET given"):
        evaluate([], **common)
    assert not (tmp_path / "cache").exists()  # nothing was trained


def test_testing_on_training_images_is_refused_before_any_training(folders, tmp_path):
    def never(*_: object) -> None:
        raise AssertionError("a training began")

    common = {"train": folders["train"], "recipe": RECIPE, "pairs": 1, "cache": tmp_path, "metrics": False}
    common |= {"progress": never}
    with pytest.raises(DataError, match="81 of its 90 images are training images"):
        evaluate([folders["good"]], test=folders["train"], **common)
    draw(tmp_path / "tree" / "train", 4, 9)
    with pytest.raises(DataError, match="but no test part"):
        evaluate([folders["good"]], test=tmp_path / "tree", **common)


def test_more_sets_than_pairs_are_refused(folders, tmp_path):
    sets = [folders["good"]] * 6
    common = {"train": folders["train"], "test": "val", "recipe": RECIPE, "cache": tmp_path, "metrics": False}
    with pytest.raises(InputError, match="6 sets are more than the default 5 pairs use: pass --pairs 6"):
        evaluate(sets, **common, ipc=(4, 11))


@pytest.mark.full
def test_shuffled_labels_score_at_chance(tmp_path):
    """Control: the interval of OA contains 1/3, but is far above it for sets with true labels."""
    train, test = draw(tmp_path / "train", 12, 1), draw(tmp_path / "test", 30, 2)
    common = {"train": train, "test": test, "recipe": RECIPE, "pairs": 8, "baselines": (), "metrics": False}
    common["cache"] = tmp_path / "cache"
    shuffled = [draw(tmp_path / f"shuffled{i}", 12, 100 + i, shuffled=True) for i in range(8)]
    chance = t_interval(evaluate(shuffled, **common).arms[0].oa_runs)
    assert chance.low < 1 / 3 < chance.high
    true = t_interval(evaluate([draw(tmp_path / "true", 12, 99)], **common).arms[0].oa_runs)
    assert true.low > 0.9


@pytest.mark.full
def test_real_subsets_given_as_sets_equal_random(tmp_path):
    """Control: the paired interval contains 0. Sets with wrong labels differ from random."""
    train, test = draw(tmp_path / "train", 40, 1, spread=45), draw(tmp_path / "test", 40, 2, spread=45)
    common = {"train": train, "test": test, "recipe": RECIPE, "pairs": 6, "metrics": False, "cache": tmp_path / "cache"}
    same = evaluate([draw(tmp_path / f"real{i}", 8, 10 + i, spread=45) for i in range(6)], **common)
    assert 0.5 < same.arms[1].oa_mean < 0.95  # neither chance nor saturated: a difference could show
    gap = same.differences[0].difference
    assert gap.low < 0 < gap.high
    assert same.verdicts[0].verdict == "not resolved"
    wrong = [draw(tmp_path / f"wrong{i}", 8, 10 + i, spread=45, shuffled=True) for i in range(6)]
    worse = evaluate(wrong, **common)
    assert worse.differences[0].difference.high < 0
    assert worse.verdicts[0].verdict == "not met"


@pytest.fixture(scope="module")
def everything(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Path]:
    """Every baseline, two students, soft labels and metrics, at two IPCs."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        use_quick_extractor(patch)
        result = evaluate(
            [folders["good"], folders["other"]],
            train=folders["train"],
            test=folders["test"],
            students=("convnet", "vit-tiny"),
            baselines=("random", "herding", "k-center", "k-means", "full"),
            ipc=(2, 1),
            recipe=replace(RECIPE, steps=6, warmup=1, full_steps=9),
            pairs=2,
            at_least=0.5,
            soft_labels=True,
            cache=cache,
        )
    return result, cache


def test_every_arm_student_and_ipc_is_reported(everything):
    result, _ = everything
    names = ("set", "random", "herding", "k-center", "k-means", "full")
    order = [(arm.ipc, arm.student, arm.arm) for arm in result.arms]
    assert order == [(ipc, student, arm) for ipc in (2, 1) for student in ("convnet", "vit-tiny") for arm in names]
    for arm in result.arms:
        full = arm.arm == "full"
        assert (arm.images, arm.steps) == ((81, 9) if full else (3 * arm.ipc, 6))  # 30 a class less 3 for validation
        confusion = np.array(arm.confusion)
        assert confusion.sum() == 2 * result.test_images == 240
        assert overall_accuracy(confusion) == pytest.approx(arm.oa_mean)
        np.testing.assert_allclose(class_accuracy(confusion), list(arm.class_accuracy.values()))
    whole = [arm for arm in result.arms if arm.arm == "full" and arm.student == "convnet"]
    assert whole[0].oa_runs == whole[1].oa_runs  # one training for both IPCs


def test_differences_and_verdicts_follow_from_the_runs(everything):
    result, _ = everything
    runs = {(arm.arm, arm.student, arm.ipc): arm.oa_runs for arm in result.arms}
    assert len(result.differences) == len(result.verdicts) == 2 * 2 * 5
    for goal, row in zip(result.verdicts, result.differences, strict=True):
        assert (goal.reference, goal.student, goal.ipc) == (row.reference, row.student, row.ipc)
        ours, other = runs["set", goal.student, goal.ipc], runs[goal.reference, goal.student, goal.ipc]
        expected = ratio_verdict(ours, other, 0.5)
        assert (goal.ratio, goal.verdict, goal.interval) == (0.5, expected.verdict, expected.interval)
        assert row.difference.mean == pytest.approx(np.mean(ours) - np.mean(other))


def test_what_the_figures_rest_on_is_said(everything):
    result, _ = everything
    assert result.labels == "soft"
    assert result.teacher == result.extractor
    assert result.teacher.startswith("own: ResNet")
    assert [note[:5] for note in result.notes[:2]] == ["IPC 2", "IPC 1"]
    assert set(result.fingerprints) == {"train", "test", "set 0", "set 1"}
    assert len(set(result.fingerprints.values())) == 4
    again = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert again["metrics"][0]["arm"] == "set"
    assert again["arms"][0]["confusion"][0][0] >= 0
    assert {"oa_mean", "oa_std", "oa_runs", "aa", "kappa"} <= set(again["arms"][0])


def test_metrics_are_of_the_first_pair_of_each_arm_large_enough(everything, folders):
    result, _ = everything
    assert [(row.arm, row.ipc, row.images) for row in result.metrics] == [
        (arm, 2, 6) for arm in ("set", "random", "herding", "k-center", "k-means")
    ]
    assert sum("too few for set metrics" in note for note in result.notes) == 5  # IPC 1: 3 images an arm
    assert all(row.extractor == result.extractor for row in result.metrics)
    assert {row.precision for row in result.metrics if row.arm != "set"} == {1.0}  # they are in the reference


def test_detail_is_of_the_tested_images_and_of_every_arm(everything, folders):
    result, _ = everything
    held_out, *arms = result.detail
    assert (held_out.arm, held_out.ipc, held_out.images) == ("held-out real", None, result.test_images)
    assert {(row.arm, row.ipc) for row in arms} == {
        (arm, ipc) for arm in ("set", "random", "herding", "k-center", "k-means") for ipc in (1, 2)
    }
    assert all(set(row.kurtosis) == set(row.fine_contrast) == set(result.classes) for row in result.detail)


def test_an_interrupted_evaluation_goes_on_from_the_cache(everything, folders, monkeypatch):
    _, cache = everything
    use_quick_extractor(monkeypatch)

    class Stop(Exception):
        pass

    def stop(done: float, total: int, what: str) -> None:
        if done >= 2:
            raise Stop

    arguments = {
        "train": folders["train"],
        "test": folders["test"],
        "baselines": ("random", "herding"),
        "ipc": (2,),
        "recipe": replace(RECIPE, steps=7, warmup=1),
        "pairs": 2,
        "soft_labels": True,
        "metrics": False,
        "cache": cache,
    }
    with pytest.raises(Stop):
        evaluate([folders["good"]], **arguments, progress=stop)
    second = evaluate([folders["good"]], **arguments)
    assert sum(arm.cached for arm in second.arms) == 2
    hard = evaluate([folders["good"]], **{**arguments, "soft_labels": False})
    assert sum(arm.cached for arm in hard.arms) == 0
    assert (hard.labels, hard.teacher) == ("hard", None)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_test_images_are_stretched_as_the_training_images_were(tmp_path):
    """Darker test images stay darker; with their own percentiles they would not."""
    rasterio = pytest.importorskip("rasterio", reason="rasterio (extra geo) is not installed")
    rng = np.random.default_rng(0)

    def write(folder: Path, high: int) -> None:
        for name in ("Alpha", "Beta"):
            (folder / name).mkdir(parents=True)
            for index in range(4):
                bands = rng.integers(0, high, (4, 8, 8)).astype(np.uint16)
                shape = {"driver": "GTiff", "count": 4, "height": 8, "width": 8, "dtype": "uint16"}
                with rasterio.open(folder / name / f"{index}.tif", "w", **shape) as file:
                    file.write(bands)

    write(tmp_path / "train", 4000)
    write(tmp_path / "test", 1000)
    drawn = draw(tmp_path / "set", 4, 0, ("Alpha", "Beta"))
    options = ImageOptions(val_per_class=1, bands="4,3,2")
    inputs = read_inputs(open_compared([drawn], tmp_path / "train", tmp_path / "test", options), 8)
    assert inputs.test.rendering == inputs.real.rendering
    assert 100 < inputs.real.images.mean() < 155
    assert inputs.test.images.mean() < 50


def test_a_list_of_images_can_be_the_test_part(folders, tmp_path):
    rows = [f"{path.relative_to(folders['test'])},{path.parent.name},test" for path in folders["test"].rglob("*.png")]
    table = folders["test"] / "test.csv"
    table.write_text("\n".join(["path,label,split", *rows]), encoding="utf-8")
    inputs = read_inputs(open_compared([folders["good"]], folders["train"], table, ImageOptions()), SIZE)
    assert (inputs.test_part, len(inputs.test.labels)) == ("test", len(rows))
    assert len(rows) > 0


def test_the_plan_pairs_seeds_sets_and_subsets(folders):
    """A method without randomness gives every pair the same images; in every arm the student's seed is the pair's."""
    sets = [folders["good"], folders["other"]]
    inputs = read_inputs(open_compared(sets, folders["train"], "val", ImageOptions()), SIZE)
    features = inputs.real.images.reshape(len(inputs.real.labels), -1).astype(np.float32)
    names = ("random", "herding", "k-center", "k-means", "tdds", "full")
    scores = np.arange(len(features), dtype=np.float32)[:, None]
    given = dict.fromkeys(names, features) | {"random": None, "full": None, "tdds": scores}
    seen = {name: Seen(inputs.real, values) for name, values in given.items()}
    plan = plan_trainings(inputs, {"convnet": StudentInfo(1, 1)}, names, {4: 3}, seen)
    assert [(item.arm, item.seed) for item in plan] == [(arm, seed) for seed in range(3) for arm in ("set", *names)]
    for arm, different in zip(("set", *names), (1, 3, 1, 1, 1, 1, 1), strict=True):
        mine = [item for item in plan if item.arm == arm]
        assert len({item.parts[0][1].tobytes() for item in mine}) == different
        if arm == "set":
            assert [item.parts[0][0] is inputs.sets[item.seed % 2] for item in mine] == [True] * 3
        else:
            assert all(item.parts[0][0] is inputs.real for item in mine)
        if arm != "full":
            np.testing.assert_array_equal(mine[0].data()[1], np.repeat([0, 1, 2], 4))
    best = next(item for item in plan if item.arm == "tdds").parts[0][1].reshape(3, 4)
    assert all(rows[0] == np.flatnonzero(inputs.real.labels == label)[-1] for label, rows in enumerate(best))
    assert not set(inputs.real.hashes) & set(inputs.test.hashes)


@pytest.mark.full
def test_a_site_adds_its_own_images_to_the_set(folders, tmp_path):
    inputs = read_inputs(open_compared([folders["good"]], folders["train"], folders["test"], ImageOptions()))
    seen = {"random": Seen(inputs.real)}
    plan = plan_trainings(inputs, {"convnet": StudentInfo(1, 1)}, ("random",), {4: 2}, seen, (1, 5))
    of = {(item.arm, item.seed): item.data() for item in plan}
    for k in (1, 5):
        alone, both = of[f"{k} real", 1], of[f"set + {k} real", 1]
        np.testing.assert_array_equal(np.bincount(alone[1]), [k] * 3)
        for values, ours, own in zip(both, of["set", 1], alone, strict=True):
            np.testing.assert_array_equal(values, np.concatenate([ours, own]))
    first, second = ({image.tobytes() for image in of["5 real", seed][0]} for seed in (0, 1))
    assert first != second  # each pair's site has other images
    assert {image.tobytes() for image in of["random", 0][0]} < first  # those of the baseline, and one more per class
    real = {image.tobytes() for image in inputs.real.images}
    assert first | second <= real
    by_epochs = replace(RECIPE, steps=0, epochs=10)  # twelve images per epoch in every arm
    assert {item.recipe(by_epochs).steps for item in plan} == {8}

    config = EvaluateConfig(pairs=2, ipc=(4,), with_real=(1,), baselines=(), metrics=False)
    common = {"train": folders["train"], "test": folders["test"], "recipe": RECIPE, "cache": tmp_path}
    found = compare([folders["shuffled"]], config, **common)
    assert [(arm.arm, arm.images) for arm in found.arms] == [("set", 12), ("1 real", 3), ("set + 1 real", 15)]
    names = [(row.arm, row.reference) for row in found.differences]
    assert names == [("set", "1 real"), ("set + 1 real", "set"), ("set + 1 real", "1 real")]
    assert [(goal.arm, goal.reference) for goal in found.verdicts] == names
    config = EvaluateConfig(pairs=2, ipc=(4,), labels=True, jpegs=0.01, baselines=(), metrics=False)
    found = compare([folders["good"]], config, **common)
    assert [(arm.arm, arm.images) for arm in found.arms][:2] == [("set", 12), ("labels", 12)]
    assert [row.reference for row in found.differences] == ["labels", "jpegs in 0.01 MB"]
    assert {"labels", "jpegs in 0.01 MB"} <= {note.split(":")[0] for note in found.notes}
    scarce = "class Blue has 27 real images, --with-real asks for 31: give --with-real 27 or less"
    with pytest.raises(DataError, match=scarce):
        compare([folders["good"]], replace(config, with_real=(31,)), **common)
