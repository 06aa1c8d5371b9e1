"""Our wheel: what git holds and nothing else, the same bytes for the same commit."""

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "airgap" / "wheel_of_commit.py"
if not SCRIPT.is_file():
    pytest.skip("the sources are not here", allow_module_level=True)
PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "small"
version = "1"
[tool.setuptools]
packages = ["small"]
[tool.setuptools.package-data]
"*" = ["*.txt"]
"""


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("wheel_of_commit", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    (root / "small").mkdir(parents=True)
    (root / "small" / "__init__.py").write_text("")
    (root / "small" / "kept.txt").write_text("kept")
    (root / "pyproject.toml").write_text(PROJECT)
    pins = (SCRIPT.parents[1] / "constraints.txt").read_text(encoding="utf-8").splitlines()
    (root / "constraints.txt").write_text(next(pin for pin in pins if pin.startswith("setuptools==")))
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "--quiet"], ["add", "."], [*author, "commit", "--quiet", "-m", "first"]):
        subprocess.run(["git", "-C", str(root), *command], check=True, capture_output=True)
    return root


def test_changes_that_are_not_committed_are_refused(checkout: Path, tmp_path: Path) -> None:
    (checkout / "small" / "kept.txt").write_text("changed")
    with pytest.raises(SystemExit, match=r"small/kept\.txt and 0 more files differ from the last commit"):
        script().build_wheel(tmp_path / "dist", checkout)


@pytest.mark.parametrize("fresh", [True, False], ids=["our setup.py", "without it"])
def test_nothing_that_lies_in_build_comes_into_a_wheel(fresh: bool, checkout: Path, tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    if fresh:
        shutil.copy(SCRIPT.parents[1] / "setup.py", checkout)
    (checkout / "build" / "lib" / "small").mkdir(parents=True)
    (checkout / "build" / "lib" / "small" / "stray.py").write_text("")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    program = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    command = [sys.executable, "-c", program, str(tmp_path)]
    subprocess.run(command, cwd=checkout, check=True, capture_output=True, env=os.environ | {"TMPDIR": str(temporary)})
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if "dist-info" not in name}
    assert names == {"small/__init__.py", "small/kept.txt"} | (set() if fresh else {"small/stray.py"})
    assert list(temporary.iterdir()) == [], "nothing is left behind"
    shutil.rmtree(checkout / "build")
    subprocess.run(command, cwd=checkout, check=True, capture_output=True)
    assert (checkout / "build").exists() != fresh


@pytest.mark.full  # pip downloads setuptools
def test_equal_commits_give_equal_bytes_and_stray_files_stay(checkout: Path, tmp_path: Path) -> None:
    first = script().build_wheel(tmp_path / "first", checkout)
    (checkout / "small" / "secret.txt").write_text("not in git")
    os.utime(checkout / "small" / "kept.txt", (1, 1))
    (checkout / "small" / "__init__.py").chmod(0o600)
    again = script().build_wheel(tmp_path / "again", checkout)
    assert first.read_bytes() == again.read_bytes()
    with zipfile.ZipFile(again) as wheel:
        assert {name for name in wheel.namelist() if "dist-info" not in name} == {"small/__init__.py", "small/kept.txt"}
