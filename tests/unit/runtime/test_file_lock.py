"""A folder in which one process works keeps the others out."""

import errno
import fcntl
import os
import signal
from pathlib import Path

import pytest

from dpd_runtime.errors import InputError
from dpd_runtime.files import worked_in


def test_another_is_kept_out_until_the_work_ends(tmp_path: Path) -> None:
    with worked_in(tmp_path, "dpd train"):
        with (
            pytest.raises(InputError, match=r": another dpd train works there; wait until it ends, or stop it"),
            worked_in(tmp_path, "dpd train"),
        ):
            pytest.fail("two work in one folder")
        assert [path.name for path in tmp_path.iterdir()] == ["session.lock"], "the one who was refused left it"
    with worked_in(tmp_path, "dpd train"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_keeps_nobody_out(tmp_path: Path) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with worked_in(tmp_path, "dpd train"):
            os.write(write, b"x")
            signal.pause()
    os.read(read, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(read)
    os.close(write)
    assert (tmp_path / "session.lock").exists()
    with worked_in(tmp_path, "dpd train"):
        pass


def test_where_there_are_no_locks_work_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    with worked_in(tmp_path, "dpd train"), worked_in(tmp_path, "dpd train"):
        pass


def test_any_other_fault_of_the_disk_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), worked_in(tmp_path / "none", "dpd train"):
        pass
