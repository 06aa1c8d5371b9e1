from dataclasses import asdict, replace

import pytest
import torch

from dpd_eval.recipe import Recipe, load_recipe, shipped_recipes
from dpd_eval.students import training_key
from dpd_runtime.errors import InputError

STAIRS = Recipe(name="t", steps=600, batch=2, optimizer="sgd", peak_rate=0.1, decay="multistep")


def test_shipped_recipes_are_read():
    assert shipped_recipes() == ("paper", "plain", "quick", "taught", "tune")
    quick, paper = load_recipe("quick"), load_recipe("paper")
    assert (quick.name, quick.steps, quick.full_steps, quick.d4) == ("quick", 1000, 4000, True)
    assert (paper.optimizer, paper.nesterov, paper.peak_rate, paper.weight_decay) == ("sgd", False, 1e-2, 5e-4)
    taught = load_recipe("taught")
    assert (taught.steps, taught.crop, taught.cutmix, taught.d4) == (10000, 0.5, 0.5, True)
    assert load_recipe("plain") == replace(quick, name="plain", d4=False, shift=0, cutmix=0.0)
    assert (quick.augments, load_recipe("plain").augments) == (True, False)
    tune = load_recipe("tune")
    assert (tune.steps, tune.full_steps, tune.peak_rate, tune.cutmix) == (1000, 0, 3e-4, 0)
    assert (paper.batch, paper.epochs, paper.decay, paper.crop, paper.flips) == (16, 1000, "multistep", 0.67, True)


def test_bad_recipes_name_the_key(tmp_path):
    with pytest.raises(InputError, match="no recipe 'slow': shipped are paper, plain, quick, taught, tune"):
        load_recipe("slow")
    good = 'steps = 5\nbatch = 4\noptimizer = "sgd"\npeak_rate = 1\n'
    path = tmp_path / "mine.toml"
    path.write_text(good)
    assert load_recipe(str(path)).steps == 5
    for text, message in [
        (good + "stepz = 3\n", r"unknown keys \['stepz'\]"),
        ("steps = 5\n", r"missing keys \['batch', 'optimizer', 'peak_rate'\]"),
        (good + "cutmix = 2\n", "cutmix = 2 is out of range"),
        (good + 'shift = "4"\n', "shift = '4' has the wrong type"),
        (good + "crop = 0.0\n", "crop = 0.0 is out of range"),
        (good + "epochs = 3\n", "epochs = 3 is out of range"),
        (good + "flips = true\n", "flips = True is out of range"),
        (good.removeprefix("steps = 5\n"), "steps = 0 is out of range"),
        ("steps = = 5", "not TOML"),
    ]:
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            load_recipe(str(path))
    with pytest.raises(InputError, match="cannot be read"):
        load_recipe(str(tmp_path / "none.toml"))


def test_arms_of_one_ipc_have_equally_many_steps():
    paper = load_recipe("paper")
    assert paper.for_training(100).steps == 6250  # 100 images · 1000 epochs / 16
    assert paper.for_training(101).steps == 6313  # 6312.5: the last batch counts
    assert replace(paper, full_steps=0).for_training(1050).steps == paper.full_steps
    assert replace(paper, full_steps=0).for_training(160, full=True).steps == 10_000
    quick = load_recipe("quick")
    assert {quick.for_training(n).steps for n in (20, 500)} == {1000}
    assert quick.for_training(12_000, full=True).steps == 4000
    settled = quick.for_training(20)
    assert settled.for_training(12_000, full=True) == settled
    with pytest.raises(InputError, match="warmup"):
        replace(paper, warmup=500).for_training(3)


def test_keys_of_stored_trainings_outlive_new_recipe_keys(monkeypatch):
    """The value was computed by the version before `full_steps`, `epochs`, `crop`, `flips` and `nesterov` existed."""
    monkeypatch.setattr(torch, "__version__", "2.13.0+cpu")
    arguments = ("a" * 64, "b" * 64, 10, "convnet")
    settled = load_recipe("quick").for_training(500)
    key = training_key(*arguments, settled, 3)
    assert key == "606c97ee24f5822ce05e1c4d2dd39f9502c73d578228c4e668aeaefce468e77b"
    assert training_key(*arguments, replace(settled, name="mine"), 3) == key
    changed = [replace(settled, crop=0.5), replace(settled, d4=False, flips=True), replace(settled, steps=999)]
    others = {training_key(*arguments, recipe, 3) for recipe in changed} | {
        training_key(*arguments, settled, 4),
        training_key(*arguments, settled, 3, targets="c"),
        training_key(*arguments, settled, 3, targets="d"),
    }
    assert len(others | {key}) == 7


def test_every_key_that_is_not_at_its_default_decides():
    assert "nesterov" not in STAIRS.key_dict()
    assert replace(STAIRS, nesterov=False).key_dict()["nesterov"] is False
    assert set(asdict(STAIRS)) - set(STAIRS.key_dict()) == {"name", "epochs", "full_steps", "crop", "flips", "nesterov"}
