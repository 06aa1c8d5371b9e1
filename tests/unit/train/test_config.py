"""Presets: readable files whose values reach the config, under what the user gives."""

import tomllib
from dataclasses import asdict
from typing import Any

import pytest

from dpd_runtime.errors import InputError
from dpd_train.config import PRESETS, TrainConfig, preset_text, renamed, repeating_options, resolve


@pytest.mark.parametrize("name", PRESETS)
def test_every_value_reaches_the_config(name: str) -> None:
    config = asdict(resolve(name, {}))
    values = tomllib.loads(preset_text(name))
    assert values.items() <= config.items()
    assert preset_text(name).startswith(f"# dpd train --preset {name}:")


def test_what_the_user_gives_wins_and_what_nobody_gives_is_the_default() -> None:
    config = resolve("paper", {"steps": 7, "batch": None, "tune_vae": True})
    assert (config.steps, config.batch, config.tune_vae, config.seed) == (7, 8, True, TrainConfig().seed)
    assert resolve("paper", {}).steps == 20_000  # the control


def test_the_defaults_are_those_that_measured_best_and_quick_stays_quick() -> None:
    config, quick = resolve(None, {}), resolve("quick", {})
    assert config == TrainConfig()
    assert (config.prototypes, config.tune_vae, config.steps, config.peak_rate) == (None, None, 1500, 4e-4)
    assert (quick.prototypes, quick.tune_vae, quick.steps, quick.peak_rate) == ("pooled", False, 500, 1e-4)


def test_paper_has_the_hyper_parameters_of_the_method_and_says_that_it_is_untested() -> None:
    """arXiv 2601.15829."""
    config = resolve("paper", {})
    assert (config.base, config.resolution, config.tune, config.lora_rank) == ("lcybuaa/Text2Earth", 256, "lora", 4)
    assert (config.peak_rate, config.warmup, config.steps, config.batch) == (5e-4, 200, 20_000, 8)
    assert "UNTESTED AT SCALE" in preset_text("paper")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"batch": 0}, "--batch is 0: it must be at least 1"),
        ({"k_min": 1}, "--k-min is 1: it must be at least 2"),
        ({"latent_classifier_steps": 0}, "--set latent_classifier_steps is 0"),
        ({"seed": 2**32}, r"--seed is 4294967296: it must be below"),
        ({"peak_rate": float("nan")}, "--peak-rate is nan"),
        ({"lambda_cls": -1.0}, "--lambda-cls is -1.0"),
        ({"prototypes": "means"}, "'means' is unknown: use centroid, pooled, matched, medoid, none"),
        ({"matching_steps": 0}, "--set matching_steps is 0: it must be at least 1"),
        ({"prototypes": "mean"}, "--prototypes 'mean' is unknown"),
        ({"tune": "half"}, "--tune 'half' is unknown: use full, lora"),
    ],
)
def test_values_out_of_range_are_refused_by_their_option(given: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        resolve(None, given)


@pytest.mark.parametrize(
    ("given", "needed"),
    [
        ({"judge_on": "pixels"}, {"lambda_cls": 0.1}),
        ({"lora_rank": 8, "tune": "full"}, {"tune": "lora"}),
        ({"vae_steps": 5, "tune_vae": False}, {"tune_vae": True}),
        ({"matching_steps": 5, "prototypes": "pooled"}, {"prototypes": "matched"}),
        ({"watcher_steps": 5, "prototypes": "none"}, {"prototypes": "matched"}),
        ({"k_min": 3, "prototypes": "none"}, {"prototypes": "pooled"}),
        ({"ipc": 3, "prototypes": "none"}, {"prototypes": "pooled"}),
        ({"batch": 8, "steps": 0}, {"steps": 10}),
        ({"lambda_cls": 0.1, "steps": 0}, {"steps": 10}),
        ({"precision": "fp32", "bands": "all"}, {"bands": "3,2,1"}),
    ],
)
def test_values_without_effect_are_refused(given: dict[str, object], needed: dict[str, object]) -> None:
    with pytest.raises(InputError, match="has no effect"):
        resolve(None, given)
    name = next(iter(given))
    assert getattr(resolve(None, given | needed), name) == given[name]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"tune": "lora"},
        {"lambda_cls": 0.1, "tune_vae": False},
        {"prototypes": "none"},
        {"bands": "all", "steps": 0},
    ],
)
def test_the_options_of_a_record_repeat_its_run(given: dict[str, object]) -> None:
    config = resolve(None, given)
    repeated = resolve(None, repeating_options(asdict(config)))
    used = set(repeating_options(asdict(config)))
    assert {name: getattr(repeated, name) for name in used} == {name: getattr(config, name) for name in used}
    assert {"seed", "teacher_steps"} < used
    assert ("batch" in used) == (config.steps > 0)


def test_a_presets_own_values_may_be_idle() -> None:
    assert resolve("standard", {"tune": "full"}).lora_rank == 4


def test_unknown_preset_is_refused() -> None:
    with pytest.raises(InputError, match="'fast' is unknown: use quick, standard, paper"):
        resolve("fast", {})


@pytest.mark.parametrize(
    ("old", "samples"),
    [
        ({"crop": None, "segmenter": None, "prune": None}, None),
        ({"crop": "foreground", "segmenter": None, "prune": None}, "foreground"),
        ({"crop": "foreground", "segmenter": "a/b,c/d", "prune": "tdds:0.5"}, "foreground:a/b+c/d,tdds:0.5"),
        ({"samples": "tdds:0.5"}, "tdds:0.5"),
        ({}, None),
    ],
)
def test_options_of_older_records_have_their_present_names(old: dict[str, Any], samples: str | None) -> None:
    assert renamed({"ipc": 3, **old}) == {"watchers": "own", "ipc": 3} | (
        {} if samples is None else {"samples": samples}
    )
