"""`--config FILE` in TOML: values arrive, the command line wins, mistakes are one line."""

from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from dpd_cli.config import read_config, take_config
from dpd_cli.main import app
from dpd_cli.options import demands_of
from dpd_runtime.errors import InputError
from tests.commands import dpd

COMMANDS: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]


def _dpd(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    done = dpd(arguments, environment, Path.cwd())
    return done.returncode, done.stderr


def read(config: Path, command: str) -> dict[str, Any]:
    return read_config(config, command, COMMANDS)


def test_values_arrive_and_the_command_line_wins(tmp_path: Path, process_environment: dict[str, str]) -> None:
    config = tmp_path / "c.toml"
    config.write_text('batch = -3\n[train]\nk-min = -7\n[generate]\nsolver = "x"\n')
    common = ("train", "data", "--out", str(tmp_path / "run"), "--config", str(config))
    assert _dpd(process_environment, *common) == (2, "dpd: --batch is -3: it must be at least 1\n")
    assert _dpd(process_environment, *common, "--batch", "2") == (2, "dpd: --k-min is -7: it must be at least 2\n")


def test_what_a_study_turns_is_set_by_name_and_the_command_line_wins(
    tmp_path: Path, process_environment: dict[str, str]
) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[train]\nteacher-steps = 0\nwarmup = -1\n")
    common = ("train", "data", "--out", str(tmp_path / "run"), "--config", str(config))
    assert read(config, "train") == {"settings": ["teacher_steps=0", "warmup=-1"]}
    assert _dpd(process_environment, *common) == (2, "dpd: --set teacher_steps is 0: it must be at least 1\n")
    typed = (*common, "--set", "teacher_steps=7")
    assert _dpd(process_environment, *typed) == (2, "dpd: --set warmup is -1: it must be at least 0\n")
    typed += ("--set", "warmup=2", "--ipc", "0")
    assert _dpd(process_environment, *typed) == (2, "dpd: --ipc is 0: it must be at least 1\n")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--set", "teacher=5"), "--set teacher=5: 'teacher' is unknown; give NAME=VALUE with warmup, schedule, "),
        (("--set", "teacher_steps"), "--set teacher_steps: has no value; give teacher_steps=VALUE"),
        (("--set", "teacher-steps=many"), "--set teacher-steps=many: 'many' is not a whole number"),
        (("--set", "judge_on=sound"), "--set judge_on 'sound' is unknown: use latents, pixels"),
        (("--set", "judge_on=pixels"), "--set judge_on has no effect without --lambda-cls: leave it out"),
        (("--teacher-steps", "5"), "dpd train has no --teacher-steps: give --set teacher_steps=VALUE"),
    ],
)
def test_a_wrong_setting_is_one_line(
    given: tuple[str, ...], said: str, tmp_path: Path, process_environment: dict[str, str]
) -> None:
    code, line = _dpd(process_environment, "train", "data", "--out", str(tmp_path / "run"), *given)
    assert code == 2
    assert said in line


def test_demands_add_up(tmp_path: Path, process_environment: dict[str, str]) -> None:
    """Those of a file, of its table and of the command line: none takes the place of another."""
    config = tmp_path / "c.toml"
    config.write_text('require = "signature"\n[info]\nrequire = ["encrypted", "dp:1"]\n')
    assert read(config, "info") == {"require": ["signature", "encrypted", "dp:1"]}
    code, said = _dpd(process_environment, "info", "--config", str(config), "--require", "audit")
    assert code == 3
    assert "an encrypted bundle is required" in said
    config.write_text('[info]\nrequire = "signature"\n')
    code, said = _dpd(process_environment, "info", "--config", str(config), "--require", "dp:1")
    assert code == 3
    assert "a trusted signature is required" in said


@pytest.mark.parametrize(
    ("require", "privacy"),
    [
        (["dp:1"], (1.0, 1e-5)),
        (["dp:1", "dp:8"], (1.0, 1e-5)),
        (["dp:8,dp:1"], (1.0, 1e-5)),
        (["dp:8:1e-6", "dp:1:1e-4"], (1.0, 1e-6)),
        (["signature", "audit,encrypted"], None),
    ],
)
def test_the_strongest_guarantee_counts(require: list[str], privacy: tuple[float, float] | None) -> None:
    demands = demands_of(require)
    assert demands.privacy == privacy
    assert (demands.signature, demands.audit, demands.encrypted) == ((privacy is None,) * 3)


def test_unknown_option_is_named(tmp_path: Path, process_environment: dict[str, str]) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[generate]\nstepz = 3\n")
    code, said = _dpd(process_environment, "generate", f"--config={config}")
    assert code == 2
    assert "dpd generate has no option stepz" in said
    assert said.count("\n") == 1


def test_table_of_another_command_is_left_alone(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('seed = 1\n[train]\nseed = 2\n[evaluate]\nrecipe = "quick"\n')
    assert read(config, "train") == {"seed": 2}
    assert read(config, "generate") == {"seed": 1}


def test_a_table_of_no_command_is_refused(tmp_path: Path, process_environment: dict[str, str]) -> None:
    """A misspelt name would drop what stands below it, such as a demand for a signature."""
    config = tmp_path / "c.toml"
    config.write_text("[genrate]\nrequire-signature = true\n")
    code, said = _dpd(process_environment, "generate", "--config", str(config), "--out", str(tmp_path / "set"))
    assert (code, said) == (2, f"dpd: --config {config}: [genrate] is no command of dpd; see dpd --help\n")
    assert not (tmp_path / "set").exists()


def test_a_list_stands_for_values_with_commas_unless_the_option_can_be_repeated(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('[evaluate]\nipc = [10, 50]\nsets = ["a", "b"]\n[generate]\ntrusted-key = ["a.pub", "b.pub"]\n')
    evaluate, generate = (read(config, name) for name in ("evaluate", "generate"))
    assert evaluate == {"ipc": "10,50", "sets": ["a", "b"]}
    assert generate == {"trusted_key": ["a.pub", "b.pub"]}


@pytest.mark.parametrize("arguments", [["--config"], ["--config", "a", "--config=b"]])
def test_one_file_once(arguments: list[str]) -> None:
    with pytest.raises(InputError, match="once"):
        take_config(arguments)


def test_damaged_file_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_bytes(b"\xff = ")
    with pytest.raises(InputError, match="not TOML"):
        read(config, "train")
