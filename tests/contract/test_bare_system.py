"""The runtime works where what only Unix or only Linux has is missing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")
from dpd_runtime import embedded_bundle, generate, load_bundle, write_set

ROOT = Path(__file__).parents[2]
GENERATE = """
from tests.bare_system import hide
hide()
import os, sys
from dpd_cli.main import main
import dpd_runtime.files
assert hasattr(os, "O_NOFOLLOW") and not hasattr(dpd_runtime.files.os, "O_NOFOLLOW"), "hidden from the runtime alone"
sys.argv[1:] = ["generate", "--ipc", "1", "--classes", "River,Forest", "--out", sys.argv[1], "--json"]
main()
"""


def test_the_same_set_is_generated(process_environment: dict[str, str], tmp_path: Path) -> None:
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), process_environment["PYTHONPATH"]])}
    command = [sys.executable, "-c", GENERATE, str(tmp_path / "bare")]
    done = subprocess.run(command, env=process_environment | paths, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    bundle = load_bundle(embedded_bundle())
    usual = write_set(generate(bundle, ipc=1, classes=("River", "Forest"), provider="cpu"), tmp_path / "usual")
    assert json.loads(done.stdout)["set_hash"] == usual.set_hash
