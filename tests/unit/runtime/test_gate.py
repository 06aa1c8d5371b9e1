"""The golden gate: a provider whose images are not PyTorch's is not used, and every provider is asked once."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dpd_runtime import generate, golden, sessions
from dpd_runtime.annotations import Array
from dpd_runtime.bundle import Bundle
from dpd_runtime.engines import FLAVOURS, Engine, Provider
from dpd_runtime.errors import CheckError, InputError, ProviderError
from dpd_runtime.files import cache_folder
from dpd_runtime.golden import GOLDEN_NAME
from dpd_runtime.networks import DECODER, GRAPHS, UNET
from tests.drawn import opened

pytest.importorskip("onnxruntime")
CPU = Provider("cpu", "")
LOADED: list[tuple[str, str]] = []


class Wrong:
    """An engine whose results are off by some per cent, as those of a wrong kernel may be."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def run(self, **inputs: Array) -> Array:
        found = self.engine.run(**inputs)
        return found + np.float32(0.1) * np.sin(np.arange(found.size, dtype=np.float32)).reshape(found.shape)


class Watched(Bundle):
    """A bundle that runs every provider on the CPU, those named "cuda" wrongly, and tells what was loaded."""

    def engine(self, graph: str, provider: Provider, threads: int | None = None, *, halves: bool = False) -> Engine:
        if provider.name in FLAVOURS:
            return super().engine(graph, provider, threads)  # an error
        LOADED.append((graph, provider.name))
        engine = super().engine(graph, replace(provider, name="cpu"), threads)
        return Wrong(engine) if provider.name == "cuda" else engine


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sessions, "available_providers", lambda: ("cpu", "cuda"))
    LOADED.clear()
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def bundle() -> Watched:
    found = opened()
    return Watched(**{name: getattr(found, name) for name in Bundle.__dataclass_fields__})


def test_a_provider_is_asked_once(bundle: Watched) -> None:
    found = golden.pass_gate(bundle, CPU, (DECODER,), 1)
    assert found is not None
    assert found.good
    assert found.psnr_db > 60  # the graph is the one that the exporter compared with PyTorch
    assert LOADED == [(DECODER, "cpu")], "decoded images need no more"
    assert golden.pass_gate(bundle, CPU, (DECODER,), 1) == found
    assert LOADED == [(DECODER, "cpu")]
    (file,) = cache_folder(golden.CACHE).iterdir()
    assert json.loads(file.read_text())["key"]["bundle"] == bundle.hash


def test_sampled_images_need_their_own_answer(bundle: Watched) -> None:
    golden.pass_gate(bundle, CPU, (DECODER,), 1)
    golden.pass_gate(bundle, CPU, GRAPHS, 1)
    assert {graph for graph, _ in LOADED} == {DECODER, UNET}


def test_a_wrong_provider_is_an_error_where_it_is_named_and_left_out_where_not(
    bundle: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(CheckError, match=r"provider cuda: its images differ from PyTorch's \([0-9.]+ dB") as raised:
        generate(bundle, ipc=1, provider="cuda")
    assert raised.value.exit_code == 1
    chosen = generate(bundle, ipc=1).provider
    assert chosen.name == "cpu"
    assert "provider cuda: its images differ" in chosen.reason
    assert [record.message.endswith("; trying the next provider") for record in caplog.records] == [True]
    loads = len(LOADED)
    with pytest.raises(CheckError):
        generate(bundle, ipc=1, provider="cuda")
    assert [graph for graph, name in LOADED[loads:]] == [DECODER], "opened, but not asked again"


def test_another_version_or_processor_is_asked_again(bundle: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    golden.pass_gate(bundle, CPU, (DECODER,), 1)
    monkeypatch.setattr(golden, "versions", lambda: {"onnxruntime": "99.0"})
    golden.pass_gate(bundle, CPU, (DECODER,), 1)
    monkeypatch.setattr(golden, "cpu_flags", lambda: ["avx1024"])
    golden.pass_gate(bundle, CPU, (DECODER,), 1)
    golden.pass_gate(bundle, CPU, (DECODER,), 1)
    assert len(LOADED) == 3


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b'{"key": 1, "psnr_db": 99.0, "limit_db": 1.0}', b"\xff", b"[" * 60_000]
)
def test_a_damaged_answer_is_asked_again(content: bytes, bundle: Watched) -> None:
    golden.pass_gate(bundle, CPU, (DECODER,), 1)
    (file,) = cache_folder(golden.CACHE).iterdir()
    file.write_bytes(content)
    golden.pass_gate(bundle, CPU, (DECODER,), 1)
    assert len(LOADED) == 2
    golden.pass_gate(bundle, CPU, (DECODER,), 1)
    assert len(LOADED) == 2


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give a file away")
def test_an_answer_that_another_user_has_put_there_is_not_believed(bundle: Watched) -> None:
    golden.pass_gate(bundle, CPU, (DECODER,), 1)
    (file,) = cache_folder(golden.CACHE).iterdir()
    os.chown(file, 65532, -1)
    golden.pass_gate(bundle, CPU, (DECODER,), 1)
    assert len(LOADED) == 2
    assert file.stat().st_uid == 0, "it was replaced"


def test_a_cache_that_cannot_be_written_costs_time_only(bundle: Watched, own_cache: Path) -> None:
    own_cache.write_text("a file where the folder should be")
    for _ in range(2):
        assert golden.pass_gate(bundle, CPU, (DECODER,), 1) is not None
    assert len(LOADED) == 2


def test_a_bundle_without_golden_images_passes_unasked(bundle: Watched) -> None:
    old = replace(bundle, files={name: raw for name, raw in bundle.files.items() if name != GOLDEN_NAME})
    assert golden.pass_gate(old, CPU, GRAPHS, 1) is None
    assert LOADED == []


@pytest.mark.parametrize("options", [{"provider": "cpu", "device": 1}, {"provider": "cuda", "device": -1}])
def test_a_device_that_has_no_meaning_is_refused(options: dict[str, object], bundle: Watched) -> None:
    with pytest.raises(InputError, match=r"--device -?1: give the number of a GPU"):
        generate(bundle, ipc=1, **options)  # type: ignore[arg-type]


def test_a_device_without_a_gpu_is_no_cpu_run(bundle: Watched) -> None:
    with pytest.raises(ProviderError, match="GPU 1, as --device says: none can be used here"):
        generate(bundle, ipc=1, device=1)
