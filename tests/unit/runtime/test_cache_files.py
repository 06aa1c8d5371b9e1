"""A file of a cache counts only where this user and root alone can have written it."""

import logging
import os
from pathlib import Path

import pytest

from dpd_runtime.files import is_own, read_cached

pytestmark = pytest.mark.skipif(not hasattr(os, "getuid"), reason="files have no owner here")


@pytest.mark.parametrize(
    ("folder", "file", "good"),
    [
        (0o700, 0o600, True),
        (0o700, 0o666, True),  # nobody else reaches it, whatever an umask of 002 or 000 left
        (0o755, 0o644, True),
        (0o755, 0o664, False),
        (0o755, 0o646, False),
        (0o775, 0o644, False),
        (0o777, 0o644, False),
        (0o1777, 0o644, True),  # root's, with the sticky bit: /tmp
    ],
    ids=lambda value: oct(value) if isinstance(value, int) and not isinstance(value, bool) else str(value),
)
def test_modes(folder: int, file: int, good: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if folder & 0o1000 and os.getuid() != 0:
        pytest.skip("only root has such a folder")
    path = tmp_path / "cache" / "answer"
    path.parent.mkdir()
    path.write_bytes(b"42")
    path.chmod(file)
    path.parent.chmod(folder)
    with caplog.at_level(logging.WARNING):
        assert is_own(path) is good
        assert read_cached(path) == (b"42" if good else None)
    assert ("is not used: other users could have written it" in caplog.text) is not good


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("place", ["answer", "."])
def test_another_users_file_or_folder_counts_as_none(place: str, tmp_path: Path) -> None:
    path = tmp_path / "cache" / "answer"
    path.parent.mkdir(mode=0o700)
    path.write_bytes(b"42")
    os.chown(path.parent / place, 65532, -1)
    assert read_cached(path) is None


def test_what_is_no_file_counts_as_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("absent", "pipe", "folder"):
        assert read_cached(tmp_path / name) is None
