"""`--config RECORD`: what dpd wrote repeats the command that wrote it, and nothing else."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from dpd_cli.main import app
from dpd_cli.options import Verb, options_of, read_config
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
    values = read_config(record(folder, asdict(config)), command, commands)
    small([command], standalone_mode=False, default_map={command: values})
    return {name: value for name, value in seen[0].items() if value is not None}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"steps": 0, "prototypes": "none", "seed": 3},
        {"tune_vae": False, "tune": "full", "peak_rate": 1e-5, "watchers": "own,hf:a/b"},
        {"bands": "4,3,2", "stretch": "2,98", "val_per_class": 0, "groups": None, "gradient_checkpointing": True},
        {"lambda_cls": 0.25, "judge_on": "pixels", "split": "names", "prune": "tdds:0.5"},
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
        {"soft_labels": True, "recipe": "paper", "resolution": 32, "val_per_class": 5, "groups": "^(.)"},
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
        ({"ipc": {"a": 1}}, "ipc is no value of --ipc; the record was changed"),
        ({"ipc": True}, "ipc is no value of --ipc; the record was changed"),
        ({"soft_labels": 1}, "soft_labels is no value of --soft-labels; the record was changed"),
        ({"seed": WITHHELD}, "--seed was given and no record fills it; give it again"),
        (None, "holds no config, as records of dpd 0.2 and before; give the options instead"),
        ([1], "holds no config"),
    ],
)
def test_what_a_record_may_not_say(config: object, said: str, tmp_path: Path) -> None:
    path = record(tmp_path, config)
    with pytest.raises(InputError, match=r"^--config .*record\.json: ") as caught:
        read_config(path, "generate", COMMANDS)
    assert said in str(caught.value)


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


def test_an_option_of_several_machines_is_given_again(tmp_path: Path) -> None:
    config = asdict(replace(TrainConfig(), grad_compression="rs-dgc:50"))
    with pytest.raises(InputError, match="--grad-compression was given and no record fills it; give it again"):
        read_config(record(tmp_path, config), "train", COMMANDS)
