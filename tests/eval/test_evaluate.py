import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpd_eval import Recipe, evaluate, ratio_verdict
from dpd_eval.cache import load_outcome
from dpd_runtime.errors import DataError, InputError

SIZE = 16
COLOURS = {"Blue": (60, 90, 170), "Green": (70, 150, 80), "Red": (170, 80, 70)}
RECIPE = Recipe(
    name="tiny", steps=40, batch=16, optimizer="adamw", peak_rate=3e-3, warmup=5, shift=2, cutmix=0.3, precision="bf16"
)


def draw(root: Path, count: int, seed: int, classes: tuple[str, ...] = tuple(COLOURS), shuffled: bool = False) -> Path:
    """`count` images a class of noise around the class's colour; `shuffled` takes a random class's colour instead."""
    rng = np.random.default_rng(seed)
    names = list(COLOURS)
    for name in classes:
        folder = root / name
        folder.mkdir(parents=True)
        for i in range(count):
            colour = COLOURS[names[rng.integers(3)]] if shuffled else COLOURS.get(name, (0, 0, 0))
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


def test_separable_set_does_well_and_shuffled_labels_do_not(folders, tmp_path):
    common = {"train": folders["train"], "test": folders["test"], "recipe": RECIPE, "pairs": 3, "cache": tmp_path}
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


def test_same_command_gives_the_same_numbers_with_any_number_of_jobs(folders, tmp_path):
    # labels that can not be learned well: the figures are then far from 1 and would show any difference
    arguments = {"train": folders["train"], "test": folders["test"], "recipe": RECIPE, "pairs": 2, "baselines": ()}
    runs = [
        evaluate([folders["shuffled"]], **arguments, jobs=jobs, cache=tmp_path / str(i))
        for i, jobs in enumerate((1, 1, 2))
    ]
    confusions = [
        {path.stem: load_outcome(path.parent, path.stem).confusion.tolist() for path in (tmp_path / str(i)).iterdir()}
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


def test_validation_part_is_held_out_of_the_baselines(folders, tmp_path):
    common = {"train": folders["train"], "test": "val", "recipe": replace(RECIPE, steps=2, warmup=0), "cache": tmp_path}
    result = evaluate([folders["good"]], **common, pairs=1, val_per_class=10)
    assert (result.train_images, result.test_images, result.test_part, result.notes) == (60, 30, "val", ())
    with pytest.raises(DataError, match="class Blue has 20 real images, --ipc asks for 21"):
        evaluate([draw(tmp_path / "big", 21, 8)], **common, pairs=1, val_per_class=10)
    leaky = evaluate([folders["test"]], **{**common, "test": folders["test"]}, ipc=(2,), pairs=1, baselines=())
    assert leaky.notes[0].startswith("120 test images are also in SET")


def test_bad_input_names_the_thing_and_the_way_out(folders, tmp_path):
    common = {"train": folders["train"], "test": "val", "recipe": RECIPE, "cache": tmp_path / "cache"}
    with pytest.raises(DataError, match=r"class Blue has 12 images, --ipc asks for 13: give --ipc 12 or less"):
        evaluate([folders["good"]], **common, ipc=(5, 13))
    strange = draw(tmp_path / "strange", 4, 6, classes=("Blue", "Red", "Sand"))
    with pytest.raises(
        DataError, match=r"strange: its classes are not those of --train .*lacks Green; it has also Sand"
    ):
        evaluate([strange], **common)
    with pytest.raises(DataError, match=r"--test .*strange: its classes are not those"):
        evaluate([folders["good"]], **{**common, "test": strange})
    for arguments, message in [
        ({"baselines": ("herding",)}, "no baseline 'herding': there are random"),
        ({"students": ("vgg",)}, "no student 'vgg'"),
        ({"pairs": 0}, "--pairs is 0"),
        ({"ipc": (0,)}, "--ipc"),
        ({"ipc": (5, 5)}, "--ipc names something twice"),
        ({"jobs": 0}, "--jobs is 0"),
    ]:
        with pytest.raises(InputError, match=message):
            evaluate([folders["good"]], **{**common, **arguments})
    with pytest.raises(InputError, match="no SET given"):
        evaluate([], **common)
    assert not (tmp_path / "cache").exists()  # nothing was trained


def test_testing_on_training_images_is_refused_before_any_training(folders, tmp_path):
    def never(*_: object) -> None:
        raise AssertionError("a training began")

    common = {"train": folders["train"], "recipe": RECIPE, "pairs": 1, "cache": tmp_path, "progress": never}
    with pytest.raises(DataError, match="81 of its 90 images are training images"):
        evaluate([folders["good"]], test=folders["train"], **common)
    draw(tmp_path / "tree" / "train", 4, 9)
    with pytest.raises(DataError, match="but no test/"):
        evaluate([folders["good"]], test=tmp_path / "tree", **common)
