"""The kill harness itself, with two kills; `recipes/kills.py` makes twenty of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")
HARNESS = Path(__file__).parents[2] / "recipes" / "kills.py"
pytestmark = pytest.mark.skipif(not HARNESS.is_file(), reason="the recipes are not beside the tests")
FEW = ["--kills", "2", "--seed", "5", "--ipc", "2", "--steps", "1", "--classes", "River"]


def harness(more: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(HARNESS), *FEW, *more]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)


@pytest.mark.full
def test_two_kills_leave_the_same_set(process_environment: dict[str, str], tmp_path: Path) -> None:
    done = harness(["--folder", str(tmp_path), "--out", str(tmp_path / "kills.json")], process_environment)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "kills.json").read_text())
    assert (found["kills"], found["recovered"], found["images"]) == (2, 2, 2)
    assert len(found["points"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["kills.json"]


def test_the_harness_sees_a_set_that_does_not_come_back(process_environment: dict[str, str], tmp_path: Path) -> None:
    """A stand-in for `dpd` that goes on from its state without looking at the images: after a kill, its set differs."""
    package = tmp_path / "stand_in" / "dpd_cli"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(
        "import json, os, sys, time, pathlib\n"
        "out = pathlib.Path(sys.argv[sys.argv.index('--out') + 1])\n"
        "fresh = not out.exists()\n"
        "out.mkdir(exist_ok=True)\n"
        "time.sleep(0.3)\n"
        "(out / 'image').write_text(str(fresh))\n"
        "print(json.dumps({'set_hash': str(fresh), 'images': 4}))\n"
    )
    environment = process_environment | {"PYTHONPATH": str(package.parent)}
    done = harness(["--folder", str(tmp_path)], environment)
    found = json.loads(done.stdout)
    assert found["recovered"] < found["kills"]
    assert done.returncode == 1
