"""Generation with Ray: two local workers, one of which is killed, give the same set as one process."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dpd_runtime import Generation, load_bundle, write_set
from dpd_runtime.errors import InputError, MissingExtraError, ProviderError
from dpd_runtime.networks import Block, Image
from tests.drawn import files, quick_bundle

pytest.importorskip("onnxruntime")
CLASSES = ("Forest", "River")


def test_a_missing_ray_is_named(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dpd_runtime.ray import RayGeneration

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r'ray is not installed: pip install .*\[ray\]"'):
        RayGeneration(load_bundle(bundle), ipc=1, provider="cpu").connect("local")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quick_bundle(tmp_path_factory.mktemp("bundle") / "quick")


@pytest.fixture(scope="module")
def connected(bundle: Path, process_environment: dict[str, str]) -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="the extra ray is not installed")
    from dpd_runtime.ray import RayGeneration

    os.environ["PYTHONPATH"] = process_environment["PYTHONPATH"]
    made = RayGeneration(load_bundle(bundle), ipc=30, seed=3, classes=CLASSES, provider="cpu", threads=1)
    made.connect("local")
    yield made
    ray.shutdown()


def working() -> list[int]:
    """Worker processes of Ray below this one that compute a block."""

    def parent(pid: int) -> int:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if b"ray::_compute" in (entry / "cmdline").read_bytes():
                pid = above = int(entry.name)
                while above > 1 and above != os.getpid():
                    above = parent(above)
                if above == os.getpid():
                    found.append(pid)
        except OSError:
            continue
    return found


def soon_working(seconds: float = 5) -> list[int]:
    """`working`, waited for: on one core the next block begins only while this process sleeps."""
    until = time.monotonic() + seconds
    while not (found := working()) and time.monotonic() < until:
        time.sleep(0.005)
    return found


@pytest.mark.full
def test_a_worker_that_is_killed_changes_nothing(connected: Any, bundle: Path, tmp_path: Path) -> None:
    killed: list[int] = []
    stream = connected.stream

    def killing(blocks: Iterator[Block]) -> Iterator[list[Image]]:
        for images in stream(blocks):
            if not killed and (now := soon_working()):
                os.kill(now[0], signal.SIGKILL)
                killed.append(now[0])
            yield images

    connected.stream = killing
    write_set(connected, tmp_path / "ray")
    connected.stream = stream
    assert killed, "no worker was at work after the first block"
    alone = Generation(load_bundle(bundle), ipc=30, seed=3, classes=CLASSES, provider="cpu", threads=1)
    write_set(alone, tmp_path / "alone")
    assert files(tmp_path / "ray") == files(tmp_path / "alone")


@pytest.mark.full
def test_what_a_worker_cannot_do_is_said_here(connected: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpd_runtime.ray._machine", lambda: "another")
    with pytest.raises(InputError, match="another type of machine"):
        next(connected.stream(connected.blocks()))
    monkeypatch.undo()
    monkeypatch.setattr(connected, "bundle", replace(connected.bundle, hash="0" * 64))
    with pytest.raises(InputError, match="found another bundle"):
        next(connected.stream(connected.blocks()))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999"])
def test_nobody_at_the_address(address: str, bundle: Path) -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed")
    from dpd_runtime.ray import RayGeneration

    generation = RayGeneration(load_bundle(bundle), ipc=1, provider="cpu", threads=1)
    with pytest.raises(ProviderError, match=f"--ray {address}: there is no answer from this address"):
        generation.connect(address)
