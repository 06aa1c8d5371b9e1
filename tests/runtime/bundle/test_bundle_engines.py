"""Engines inside a bundle: they are hashed on the disk and never loaded, and providers say so. Any bytes do here."""

import hashlib
import os
import subprocess
import sys
import tracemalloc
from importlib.util import find_spec
from pathlib import Path

import pytest

from dpd_runtime.bundle.bundle import load_bundle
from dpd_runtime.bundle.engine_fit import this_os
from dpd_runtime.engines.engine import Provider
from dpd_runtime.engines.record import EngineInput, EngineOutput, EngineRecord, record_json
from dpd_runtime.errors import BundleError, BundleHashError, ProviderError
from dpd_runtime.generation.providers import choose_provider
from tests.runtime.bundle.test_bundle import Store, as_folder, as_zip, both, bundle_files, parts

ENGINE = "engines/tensorrt-rtx-89/latent_classifier-batch10.engine"
JUDGE = "latent_classifier/model.onnx"
PLAN = b"vtrt" + os.urandom(1000)
needs_onnxruntime = pytest.mark.skipif(find_spec("onnxruntime") is None, reason="no onnxruntime here")
without_gpu = pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="a GPU is here")


def with_engine(plan: bytes = PLAN) -> dict[str, bytes]:
    """Every file of a bundle with one engine of the judge."""
    files = parts()
    record = EngineRecord(
        flavour="tensorrt-rtx",
        builder_version="1.7.1.116",
        compute_capabilities=(89,),
        os=this_os(),
        cuda=13,
        graph=JUDGE,
        sources={JUDGE: hashlib.sha256(files[JUDGE]).hexdigest()},
        precision="fp32",
        arithmetic={"float32": 3},
        tf32=False,
        layers=9,
        inputs=(EngineInput("latents", "float32", (10, 4, 2, 3), (10, 4, 2, 3), (10, 4, 2, 3)),),
        outputs=(EngineOutput("logits", "float32", (10, 2)),),
        sha256=hashlib.sha256(plan).hexdigest(),
        bytes=len(plan),
    )
    return files | {ENGINE: plan, ENGINE.replace(".engine", ".json"): record_json(record)}


@both
def test_engines_stay_on_the_disk_and_are_read_when_asked_for(store: Store, tmp_path: Path) -> None:
    files = with_engine()
    bundle = load_bundle(store(tmp_path, bundle_files(files)))
    assert set(bundle.files) == set(files) - {ENGINE}
    assert bundle.read_engine(ENGINE) == PLAN
    for name in (JUDGE, "engines/none.engine"):
        with pytest.raises(BundleError, match=r"no engine .* in the bundle"):
            bundle.read_engine(name)


@both
def test_a_large_engine_takes_no_memory(store: Store, tmp_path: Path) -> None:
    size = 48 * 2**20  # pieces have 16
    path = store(tmp_path, bundle_files(with_engine(bytes(size))))
    tracemalloc.start()
    try:
        load_bundle(path)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < size * 3 // 4


@both
@pytest.mark.parametrize("plan", [PLAN[:-1] + b"\0", PLAN[:-1], PLAN + b"\0"], ids=["changed", "shorter", "longer"])
def test_a_changed_engine_is_refused(store: Store, plan: bytes, tmp_path: Path) -> None:
    files = bundle_files(with_engine()) | {ENGINE: plan}
    with pytest.raises(
        BundleError, match=r"latent_classifier-batch10\.engine: (sha256 is|\d+ bytes, bundle\.json says)"
    ):
        load_bundle(store(tmp_path, files))


def test_an_engine_changed_after_opening_is_not_handed_out(tmp_path: Path) -> None:
    bundle = load_bundle(as_folder(tmp_path, bundle_files(with_engine())))
    (tmp_path / "tiny" / ENGINE).write_bytes(PLAN[::-1])
    with pytest.raises(BundleHashError):
        bundle.read_engine(ENGINE)


@needs_onnxruntime
@without_gpu
def test_auto_runs_onnxruntime_and_says_why(tmp_path: Path) -> None:
    bundle = load_bundle(as_zip(tmp_path, bundle_files(with_engine())))

    def attempt(found: Provider) -> object:
        return bundle.engine(JUDGE, found) if found.name.startswith("tensorrt") else None

    chosen = choose_provider("auto", attempt)
    assert chosen.name in ("cpu", "cuda")
    assert "its tensorrt-rtx engines cannot run here: " in chosen.reason
    assert "tensorrt engines" not in chosen.reason, "the bundle has none of that flavour"
    assert "\n" not in chosen.reason
    with pytest.raises(ProviderError, match=r"^provider tensorrt-rtx: its .* cannot run here: .*; use --provider cuda"):
        choose_provider("tensorrt-rtx", attempt)
    with pytest.raises(ProviderError, match=r"^provider tensorrt: the bundle has no tensorrt engines; use --prov"):
        choose_provider("tensorrt", attempt)


@needs_onnxruntime
def test_auto_does_not_speak_of_engines_that_are_not_there(tmp_path: Path) -> None:
    bundle = load_bundle(as_zip(tmp_path, bundle_files()))

    def attempt(found: Provider) -> object:
        return bundle.engine(JUDGE, found) if found.name.startswith("tensorrt") else None

    assert "engine" not in choose_provider("auto", attempt).reason


def test_info_labels_each_engine(tmp_path: Path, process_environment: dict[str, str]) -> None:
    path = as_zip(tmp_path, bundle_files(with_engine()))
    command = [sys.executable, "-m", "dpd_cli", "info", str(path)]
    done = subprocess.run(
        command, env=process_environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("engine")]
    assert ENGINE in line
    assert "batch 10, float32 arithmetic, tensorrt-rtx 1.7.1.116" in line
    assert line.endswith("built and inspected, not executed")
    assert "load only with a trusted signature" in done.stdout
