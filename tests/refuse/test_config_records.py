"""`--config RECORD`: what dpd wrote repeats the command that wrote it, and nothing else."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from dpd_cli.config import filled_options, read_config, settable
from dpd_cli.main import app
from dpd_cli.options import Verb, options_of
from dpd_eval.options import EvaluateConfig
from dpd_runtime.errors import InputError
from dpd_runtime.files import MAX_JSON_BYTES
from dpd_runtime.settings import WITHHELD
from dpd_train.config import TrainConfig, resolve
from tests.commands import dpd

COMMANDS: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]


def record(folder: Path, config: object) -> Path:
    path = folder / "record.json"
    path.write_text(json.dumps({"config": config, "set_hash": "d" * 64}))
    return path


def repeated(command: str, config: Any, folder: Path) -> dict[str, Any]:
    """The options that the command gets from a record of this config, without those that were not given."""
    small, seen = typer.Typer(), list[dict[str, Any]]()

    @options_of(type(config))
    def only(*, given: dict[type, dict[str, Any]]) -> None:
        seen.append(given[type(config)])

    small.command(command, cls=Verb)(only)
    small.command("other")(lambda: None)
    commands: dict[str, Any] = get_command(small).commands  # type: ignore[attr-defined]
    kept = {name: value for name, value in asdict(config).items() if name != "jobs"}
    values = read_config(record(folder, kept), command, commands)
    small([command], standalone_mode=False, default_map={command: values})
    return {name: value for name, value in seen[0].items() if value is not None}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"steps": 0, "prototypes": "none", "seed": 3},
        {"tune_vae": False, "tune": "full", "peak_rate": 1e-5, "watchers": "own,hf:a/b"},
        {"bands": "4,3,2", "stretch": "2,98", "val_per_class": 0, "groups": None, "gradient_checkpointing": True},
        {"lambda_cls": 0.25, "judge_on": "pixels", "split": "names", "samples": "tdds:0.5"},
    ],
)
def test_a_run_is_repeated_by_its_own_record(options: dict[str, Any], tmp_path: Path) -> None:
    config = resolve(None, options)
    assert resolve(None, repeated("train", config, tmp_path)) == config


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"students": ("convnet", "resnet"), "baselines": (), "ipc": (10, 50), "metrics": False},
        {"with_real": (1, 5), "jpegs": 3.1, "pairs": 4, "at_least": 0.97, "labels": True, "bands": "all"},
        {"soft_labels": True, "recipe": "paper", "resolution": 32, "val_per_class": 5, "groups": "^(.),[0-9]"},
        {"students": ("convnet", "groups:RGB=4,3,2;NIR=8"), "extractor": "hf:a/b"},
    ],
)
def test_an_evaluation_is_repeated_by_its_own_record(options: dict[str, Any], tmp_path: Path) -> None:
    config = EvaluateConfig(**options)
    found = repeated("evaluate", config, tmp_path)
    assert EvaluateConfig(**found) == config


def test_a_set_is_repeated_by_its_own_record(tmp_path: Path, process_environment: dict[str, str]) -> None:
    wanted = ("--ipc", "2", "--seed", "5", "--classes", "Forest,River", "--steps", "2", "--candidates", "1")
    first = dpd(("generate", *wanted, "--out", "set", "--json"), process_environment, tmp_path)
    assert first.returncode == 0, first.stderr
    again = dpd(("generate", "--config", "set/dataset.json", "--out", "again", "--json"), process_environment, tmp_path)
    assert json.loads(again.stdout)["set_hash"] == json.loads(first.stdout)["set_hash"]
    before, after = (json.loads((tmp_path / name / "dataset.json").read_text()) for name in ("set", "again"))
    assert before == after
    more = dpd(
        ("generate", "--config", "set/dataset.json", "--seed", "6", "--out", "other", "--json"),
        process_environment,
        tmp_path,
    )
    assert json.loads(more.stdout)["set_hash"] != json.loads(first.stdout)["set_hash"], "the command line wins"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"out": "/etc"}, "--out was given and no record fills it; give it again"),
        ({"trusted_key": ["mine.pub"]}, "--trusted-key was given and no record fills it"),
        ({"allow_older": True}, "--allow-older was given and no record fills it"),
        ({"ray": "10.0.0.1:6379"}, "--ray was given and no record fills it"),
        ({"overwrite": True}, "--overwrite was given and no record fills it"),
        (
            {"students": ["convnet"]},
            "dpd generate has no option --students; a record repeats the command that wrote it",
        ),
        ({"ipc": {"a": 1}}, "{'a': 1} is no value of --ipc, so the record was changed; give the options instead"),
        ({"ipc": True}, "True is no value of --ipc, so the record was changed; give the options instead"),
        ({"soft_labels": 1}, "1 is no value of --soft-labels, so the record was changed"),
        ({"seed": WITHHELD}, "--seed was given and no record fills it; give it again"),
        (None, "keeps no options; give them instead"),
        ([1], "keeps no options"),
    ],
)
def test_what_a_record_may_not_say(config: object, said: str, tmp_path: Path) -> None:
    path = record(tmp_path, config)
    with pytest.raises(InputError, match=r"^--config .*record\.json: ") as caught:
        read_config(path, "generate", COMMANDS)
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["train", "holdout", "run", "private", "out", "allow_outside"])
def test_no_place_is_filled(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="was given and no record fills it; give it again"):
        read_config(record(tmp_path, {name: True if name == "allow_outside" else "/tmp"}), "audit", COMMANDS)


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"train", "evaluate", "generate", "select", "audit"}))
def test_other_commands_have_no_records(command: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"no record repeats dpd {command}; give a TOML file"):
        read_config(record(tmp_path, {"seed": 1}), command, COMMANDS)


@pytest.mark.parametrize("command", ["train", "evaluate", "generate", "select", "audit"])
def test_what_is_filled_is_an_option(command: str) -> None:
    known = {p.opts[0].removeprefix("--").replace("-", "_") for p in COMMANDS[command].params}
    known |= set(settable(COMMANDS[command]))
    assert set(filled_options(command)) <= known
    places = {"train", "test", "holdout", "run", "out", "private", "cache_dir", "shard", "ray", "jobs", "allow_outside"}
    assert not places & set(filled_options(command))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"steps": "abc"}, "so the record was changed; give the options instead"),
        ({"bands": 5}, "the record was changed"),
        ({"groups": 1}, "the record was changed"),
        ({"stepz": 5}, "dpd train has no option --stepz"),
        ({"watchers": "own,swimdiff:eyes"}, "--watchers was given and no record fills it"),
        ({"watchers": "own,hf:vit"}, "--watchers was given and no record fills it"),
    ],
)
def test_a_damaged_or_private_run_is_one_line(config: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_config(record(tmp_path, config), "train", COMMANDS)
    assert said in str(caught.value)


def test_a_run_with_other_sites_is_not_repeated_as_one_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"config": asdict(TrainConfig()), "federated": {"rounds": 2}}))
    with pytest.raises(InputError, match="was made together with other sites; give the options instead"):
        read_config(path, "train", COMMANDS)


def test_what_was_withheld_can_be_given_again(tmp_path: Path) -> None:
    path = record(tmp_path, {"groups": WITHHELD, "images": 7})
    assert read_config(path, "audit", COMMANDS, ["audit", "--groups", "^(.)"]) == {"images": 7}
    assert read_config(path, "audit", COMMANDS, ["audit", "--groups=^(.)"]) == {"images": 7}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"config": {}, "config": {"seed": 1}}', "is not JSON (key 'config' occurs twice"),
        ("{" + '"a": {' * 200, "is not JSON ("),
        (" " * (MAX_JSON_BYTES + 1), f"has more than {MAX_JSON_BYTES} bytes"),
    ],
    ids=["twice", "deep", "large"],
)
def test_a_stranger_file_costs_little(content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        read_config(path, "generate", COMMANDS)
    assert said in str(caught.value)


def test_compressed_gradients_are_repeated(tmp_path: Path) -> None:
    config = replace(TrainConfig(), grad_compression="rs-dgc:50")
    assert repeated("train", config, tmp_path)["grad_compression"] == "rs-dgc:50"
