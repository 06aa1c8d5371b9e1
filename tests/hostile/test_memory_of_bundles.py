"""A bundle takes no more memory than its files justify, and too little memory ends in one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dpd_runtime import archive, bundle
from dpd_runtime.archive import encrypt, sealing_of
from dpd_runtime.bundle import load_bundle
from dpd_runtime.errors import BundleError, DecryptionError
from dpd_runtime.manifest import FileEntry
from tests.unit.runtime.test_bundle import Store, as_folder, as_zip, bundle_files, parts

GIGABYTE = 10**9
LIMITED = """
import resource, sys
import dpd_cli.main, dpd_runtime.bundle, cryptography.hazmat.primitives.ciphers.aead
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
limit = 1024 * int(status["VmSize"].split()[0]) + int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
dpd_cli.main.main()
"""
MEASURED = """
import dpd_cli.main
try:
    dpd_cli.main.main()
finally:
    print([line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1])
"""


def run(code: str, *arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)


def sparse_bundle(folder: Path, size: int) -> Path:
    """A folder bundle whose prototypes are a header and a hole of float16 zeros."""
    rows = size // (2 * 24)
    tensor = {"dtype": "F16", "shape": [rows, 4, 2, 3], "data_offsets": [0, rows * 48]}
    header = json.dumps({"class.0": tensor}).encode()
    start = len(header).to_bytes(8, "little") + header
    files = parts()
    entries = {name: FileEntry("0" * 64, len(raw)) for name, raw in files.items()}
    entries["prototypes.safetensors"] = FileEntry("0" * 64, len(start) + rows * 48)
    path = as_folder(folder, bundle_files(files | {"prototypes.safetensors": start}, files=entries))
    os.truncate(path / "prototypes.safetensors", len(start) + rows * 48)
    return path


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_a_sparse_folder_takes_no_memory(tmp_path: Path, process_environment: dict[str, str]) -> None:
    path = sparse_bundle(tmp_path, GIGABYTE)
    done = run(MEASURED, "info", str(path), environment=process_environment)
    assert done.returncode == 3, done.stderr
    assert "it claims 1000 MB, but the disk holds" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert int(done.stdout) < 300_000  # kB


@pytest.mark.parametrize("magic", [b"PK\x03\x04", b"DPDENC"])
def test_a_sparse_file(magic: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.dpd"
    path.write_bytes(magic)
    os.truncate(path, GIGABYTE)
    with pytest.raises(BundleError, match="it claims 1000 MB, but the disk holds"):
        load_bundle(path, b"k" * 32 if sealing_of(path) else None)


def test_holes_and_data_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        for start in (0, 2**24, 2**25):
            file.seek(start)
            file.write(b"x" * 2**16)
        file.truncate(2**26)
    assert archive._bytes_on_disk(path) == 3 * 2**16
    path.write_bytes(b"\0" * 2**18)
    assert archive._bytes_on_disk(path) == 2**18


def test_tensors_count_four_times_and_graphs_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = parts(prototypes={"class.0": np.zeros((2, 4, 2, 3), np.float16)})
    needed = sum(len(raw) * (4 if name.endswith(".safetensors") else 2) for name, raw in files.items())
    path = as_zip(tmp_path, bundle_files(files))
    monkeypatch.setattr(bundle, "usable_memory", lambda: needed)
    load_bundle(path)
    monkeypatch.setattr(bundle, "usable_memory", lambda: needed - 1)
    with pytest.raises(BundleError, match=r"tiny\.dpd: the bundle needs .* GB of memory, this process may use"):
        load_bundle(path)


def test_an_encrypted_bundle_is_measured_before_it_is_decrypted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, path = as_zip(tmp_path, bundle_files()), tmp_path / "a.dpde"
    with plain.open("rb") as source, path.open("wb") as target:
        encrypt(source, target, b"k" * 32)
    load_bundle(path, b"k" * 32)
    monkeypatch.setattr(archive, "usable_memory", lambda: 3 * path.stat().st_size)
    with pytest.raises(DecryptionError, match="the key or passphrase is wrong"):
        load_bundle(path, b"x" * 32)
    monkeypatch.setattr(archive, "usable_memory", lambda: 3 * path.stat().st_size - 1)
    with pytest.raises(BundleError, match=r"an encrypted bundle of .* needs three times as much memory"):
        load_bundle(path, b"x" * 32)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the limit is read from /proc")
@pytest.mark.parametrize(
    ("store", "room"),
    [(as_zip, 20), (as_zip, 130), (as_folder, 130)],  # MB: the file is not mapped; its tensors are not widened
)
def test_too_little_memory_ends_in_one_line(
    store: Store, room: int, tmp_path: Path, process_environment: dict[str, str]
) -> None:
    prototypes = {"class.0": np.zeros((2**20, 4, 2, 3), np.float16)}  # 50 MB
    path = store(tmp_path, bundle_files(parts(prototypes=prototypes)))
    done = run(LIMITED, str(room * 2**20), "info", str(path), environment=process_environment)
    assert (done.returncode, len(done.stderr.splitlines())) == (5, 1), done.stderr
    assert "reading this bundle needs more memory than this process may use" in done.stderr


def test_the_command_line_explains_a_memory_error(process_environment: dict[str, str]) -> None:
    code = (
        "import sys, numpy, dpd_cli.main as m\n"
        "def fail(arguments): numpy.empty(2**60, numpy.uint8)\n"
        "m._run = fail; sys.argv = ['dpd', 'bench', 'x.dpd']\n"
        "m.main()"
    )
    done = run(code, environment=process_environment)
    assert done.returncode == 5
    assert "dpd bench needs more memory than this process may use (Unable to allocate 1.00 EiB" in done.stderr
    assert "use a machine with more" in done.stderr
