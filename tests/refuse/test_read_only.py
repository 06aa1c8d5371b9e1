"""An output folder that cannot be written is said before anything is computed, with exit code 5."""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from dpd_runtime.errors import DiskError, InputError
from dpd_runtime.files import check_cache, check_writable
from tests.squares import write_squares

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="without PyTorch the missing extra is named first")
# root may write everywhere: the check asks the system as another user would see it
AS_NOBODY = """
import os, sys
real = os.access
os.access = lambda path, mode, **more: real(path, mode) and (not mode & os.W_OK or os.stat(path).st_mode & 0o222 != 0)
from dpd_cli.main import main
main()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "scenes").mkdir()
    write_squares(tmp_path / "scenes", 16, 6)
    (tmp_path / "result.json").write_text("{}")
    (tmp_path / "closed").mkdir(mode=0o555)
    return tmp_path


@needs_torch
@pytest.mark.parametrize(
    "arguments",
    [
        "train scenes --out closed/run",
        "train scenes --out closed/deeper/run",
        "evaluate scenes --train scenes --test val --out closed/result.json",
        "select scenes --method random --ipc 2 --out closed/set",
        "report result.json --out closed/report.html",
        "audit scenes --train scenes --private closed",
        "pretrain scenes --out closed/base",
    ],
)
def test_a_read_only_folder_is_named(arguments: str, folder: Path, process_environment: dict[str, str]) -> None:
    command = [sys.executable, "-c", AS_NOBODY, *arguments.split()]
    done = subprocess.run(command, cwd=folder, env=process_environment, capture_output=True, text=True, check=False)
    assert done.returncode == 5, done.stderr
    assert f"the folder {folder / 'closed'} cannot be written" in done.stderr
    assert list((folder / "closed").iterdir()) == []


def test_folders_and_files_that_can_be_written_pass(folder: Path) -> None:
    for name in ("new", "new/deeper", "result.json", "scenes"):
        check_writable(folder / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_the_system_says_the_same(folder: Path) -> None:
    with pytest.raises(DiskError, match="cannot be written"):
        check_writable(folder / "closed" / "new")


@pytest.mark.parametrize("check", [check_writable, check_cache])
def test_a_file_where_a_folder_must_be_is_named(check: Callable[[Path], None], folder: Path) -> None:
    for name in ("result.json/new", "result.json/new/deeper"):
        with pytest.raises(InputError, match=r"result\.json: is a file, where a folder must be"):
            check(folder / name)
    (folder / "link").symlink_to(folder / "scenes")
    check(folder / "link" / "new")


def test_a_cache_is_a_folder_itself(folder: Path) -> None:
    with pytest.raises(InputError, match=r"result\.json: is a file, where a folder must be; choose another --state"):
        check_cache(folder / "result.json", "choose another --state")
