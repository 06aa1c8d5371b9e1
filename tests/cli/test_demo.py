"""`dpd demo` as a user runs it: the loop closes on drawn scenes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("diffusers")
pytestmark = pytest.mark.slow


def test_demo_closes_the_loop(tmp_path: Path, process_environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "dpd_cli", "demo", "--out", str(tmp_path / "demo"), "--json"]
    done = subprocess.run(
        [*command, "--per-class", "40", "--steps", "20"],
        capture_output=True,
        text=True,
        check=True,
        env=process_environment,
    )
    answer = json.loads(done.stdout)
    assert answer["generate"]["images"] == 60
    arms = {arm["arm"]: arm["oa_mean"] for arm in answer["evaluate"]["arms"]}
    assert set(arms) == {"set", "random"}
    assert arms["random"] > 0.5  # the drawn classes are easy
    assert arms["set"] > 1 / 6  # a few steps from EuroSAT towards drawings: better than chance is all that is claimed
    assert (tmp_path / "demo" / "distilled" / "contact_sheet.png").is_file()
    again = subprocess.run(command, capture_output=True, text=True, check=False, env=process_environment)
    assert again.returncode == 2
    assert "not empty" in again.stderr
