"""`dpd demo` as a user runs it: the loop closes on drawn scenes."""

import json
from pathlib import Path

import pytest

from tests.commands import dpd

pytest.importorskip("diffusers")
pytestmark = pytest.mark.full


def test_demo_closes_the_loop(tmp_path: Path, process_environment: dict[str, str]) -> None:
    command = ["demo", "--out", "demo", "--json"]
    done = dpd([*command, "--per-class", "40", "--steps", "20"], process_environment, tmp_path)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["generate"]["images"] == 60
    arms = {arm["arm"]: arm["oa_mean"] for arm in answer["evaluate"]["arms"]}
    assert set(arms) == {"set", "random"}
    assert arms["random"] > 0.5  # the drawn classes are easy
    assert arms["set"] > 1 / 6  # a few steps from EuroSAT towards drawings: better than chance is all that is claimed
    assert (tmp_path / "demo" / "distilled" / "contact_sheet.png").is_file()
    again = dpd(command, process_environment, tmp_path)
    assert again.returncode == 2
    assert "not empty" in again.stderr
