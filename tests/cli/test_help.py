"""What --help shows is what the sources say: rich takes square brackets for its markup and drops them."""

import re

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from dpd_cli.main import app

COMMANDS = sorted(get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_shown_with_all_of_its_words(name: str) -> None:
    shown = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "1000", "TERM": "dumb", "NO_COLOR": "1"})
    assert shown.exit_code == 0
    text = re.sub(r"[\s│]+", " ", shown.output)
    for option in get_command(app).commands[name].params:  # type: ignore[attr-defined]
        words = (getattr(option, "help", None) or "").replace("\\[", "[")
        assert re.sub(r"\s+", " ", words).strip() in text, f"{option.opts[0]}: {words}"
