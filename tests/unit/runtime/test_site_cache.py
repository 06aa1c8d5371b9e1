"""What a provider compiled, kept between processes: a damaged or foreign file counts as none. Any bytes do here."""

import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from dpd_runtime.engine_files import seal, working_folder

ROOT = Path(__file__).parents[3]
NAME = "NvExecutionProvider_TRTKernel_graph_main_123_0_0"


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    path = tmp_path / "hash" / "tensorrt-rtx-1.7.1-GPU-89-580.cache"
    (working_folder(path) / NAME).write_bytes(b"kernels\0" * 1000)
    assert seal(path)
    return path


def next_process() -> None:
    """Forget the folders of this process, as its end would."""
    working_folder.cache_clear()


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_next_process_finds_what_was_compiled(sealed: Path) -> None:
    before = working_folder(sealed)
    assert working_folder(sealed) is before
    next_process()
    found = working_folder(sealed)
    assert found != before
    assert content(found) == {NAME: b"kernels\0" * 1000}
    assert stat.S_IMODE(found.stat().st_mode) == 0o700
    assert stat.S_IMODE(sealed.parent.stat().st_mode) == 0o700


def test_the_folder_ends_with_its_process(tmp_path: Path) -> None:
    code = f"from dpd_runtime.engine_files import *; print(working_folder(Path({str(tmp_path / 'x')!r})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not Path(done.stdout.strip()).exists()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), cut=st.booleans())
def test_one_changed_byte_counts_as_none(sealed: Path, place: float, cut: bool) -> None:
    good = sealed.read_bytes()
    at = int(place * len(good))
    sealed.write_bytes(good[:at] if cut else good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    try:
        next_process()
        assert content(working_folder(sealed)) == {}
    finally:
        sealed.write_bytes(good)


def test_names_that_leave_the_folder_are_left_out(tmp_path: Path) -> None:
    names = ("../out", str(tmp_path / "absolute"), ".hidden", "a/b", "good")
    raw = save({name: np.frombuffer(b"x", np.uint8) for name in names})
    path = tmp_path / "x.cache"
    path.write_bytes(hashlib.sha256(raw).digest() + raw)
    folder = working_folder(path)
    assert content(folder) == {"good": b"x"}
    assert not (folder.parent / "out").exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.cache"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_counts_as_none(sealed: Path) -> None:
    os.chown(sealed, 65532, -1)
    next_process()
    assert content(working_folder(sealed)) == {}


def test_links_are_not_kept_and_an_empty_folder_is_no_cache(tmp_path: Path) -> None:
    path = tmp_path / "x.cache"
    (tmp_path / "secret").write_text("secret")
    (working_folder(path) / "link").symlink_to(tmp_path / "secret")
    assert not seal(path)
    assert not path.exists()


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file where the folder should be")
    path = tmp_path / "file" / "x.cache"
    (working_folder(path) / "engine").write_bytes(b"x")
    assert not seal(path)
