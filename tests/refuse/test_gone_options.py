"""Options that went with the last release: the message says what to write instead."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from dpd_cli.gone import GONE
from dpd_cli.main import KNOWN
from tests.commands import dpd
from tests.squares import write_squares

OPTIONS = [(command, option) for command, options in GONE.items() for option in options if command in KNOWN]


@pytest.mark.skipif(find_spec("dpd_train") is None, reason="a site has not had these commands")
@pytest.mark.parametrize(("command", "option"), OPTIONS)
def test_an_option_that_went_says_what_to_write(
    command: str, option: str, process_environment: dict[str, str], tmp_path: Path
) -> None:
    done = dpd([command, "scenes", option, "1"], process_environment, tmp_path)
    assert done.returncode == 2
    said = f"dpd: dpd {command} has no {option} any more: {GONE[command][option]}\n"
    (tmp_path / "gone.toml").write_text(f"{option.removeprefix('--')} = 1\n")
    done_by_file = dpd([command, "scenes", "--config", "gone.toml"], process_environment, tmp_path)
    assert done_by_file.stderr == f"dpd: --config gone.toml: {said.removeprefix('dpd: ')}"
    assert done.stderr.replace("python -m tests.dpd", "dpd") == said, "and nothing else"


@pytest.mark.skipif(find_spec("dp_accounting") is None, reason="dpd private needs it")
def test_a_command_of_a_door_has_a_table_in_a_configuration(
    process_environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "all.toml").write_text("[private]\nepsilon = 0.0\n[train]\nipc = 0\n")
    (tmp_path / "scenes").mkdir()
    write_squares(tmp_path / "scenes", side=64, images=8)
    for words, said in {
        "--config all.toml private scenes --out a.dpd": "--epsilon 0: give an epsilon above 0",
        "train scenes --config all.toml": "ipc is 0",
    }.items():
        done = dpd(words.split(), process_environment, tmp_path)
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr
