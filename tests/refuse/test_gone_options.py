"""Options that went with the last release: the message says what to write instead."""

from importlib.util import find_spec

import pytest

from dpd_cli.gone import GONE
from dpd_cli.main import KNOWN
from tests.commands import dpd

OPTIONS = [(command, option) for command, options in GONE.items() for option in options if command in KNOWN]


@pytest.mark.skipif(find_spec("dpd_train") is None, reason="a site has not had these commands")
@pytest.mark.parametrize(("command", "option"), OPTIONS)
def test_an_option_that_went_says_what_to_write(
    command: str, option: str, process_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    done = dpd([command, "scenes", option, "1"], process_environment, tmp_path_factory.getbasetemp())
    assert done.returncode == 2
    said = f"dpd: dpd {command} has no {option} any more: {GONE[command][option]}\n"
    assert done.stderr.replace("python -m tests.dpd", "dpd") == said, "and nothing else"
