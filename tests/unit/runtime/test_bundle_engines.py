"""Engines inside a bundle: hashed on the disk, and loaded only where they fit and are trusted. Any bytes do here."""

import hashlib
import random
import tracemalloc
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from dpd_runtime.bundle import load_bundle
from dpd_runtime.engine_files import EngineInput, EngineOutput, EngineRecord, record_json
from dpd_runtime.errors import BundleError, BundleHashError, MissingExtraError
from dpd_runtime.networks import choose_provider
from dpd_runtime.tensorrt import Site, this_os
from dpd_runtime.trust import Signature
from tests.commands import dpd
from tests.drawn import opened
from tests.unit.runtime.test_bundle import Store, as_folder, as_zip, both, bundle_files, parts

ENGINE = "engines/tensorrt-rtx-89/latent_classifier-batch1to20.engine"
LATENT_CLASSIFIER = "latent_classifier/model.onnx"
PLAN = b"vtrt" + random.Random(0).randbytes(1000) + b"\1"
needs_onnxruntime = pytest.mark.skipif(find_spec("onnxruntime") is None, reason="no onnxruntime here")


def with_engine(plan: bytes = PLAN) -> dict[str, bytes]:
    """Every file of a bundle with one engine of the judge."""
    files = parts()
    record = EngineRecord(
        flavour="tensorrt-rtx",
        builder_version="1.7.1.116",
        compute_capabilities=(89,),
        os=this_os(),
        cuda=13,
        graph=LATENT_CLASSIFIER,
        sources={LATENT_CLASSIFIER: hashlib.sha256(files[LATENT_CLASSIFIER]).hexdigest()},
        precision="fp32",
        arithmetic={"float32": 3},
        tf32=False,
        layers=9,
        inputs=(EngineInput("latents", "float32", (1, 4, 2, 3), (10, 4, 2, 3), (20, 4, 2, 3)),),
        outputs=(EngineOutput("logits", "float32", (-1, 2)),),
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
    for name in (LATENT_CLASSIFIER, "engines/none.engine"):
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
        BundleError, match=r"latent_classifier-batch1to20\.engine: (sha256 is|\d+ bytes, bundle\.json says)"
    ):
        load_bundle(store(tmp_path, files))


def test_an_engine_changed_after_opening_is_not_handed_out(tmp_path: Path) -> None:
    bundle = load_bundle(as_folder(tmp_path, bundle_files(with_engine())))
    (tmp_path / "tiny" / ENGINE).write_bytes(PLAN[::-1])
    with pytest.raises(BundleHashError):
        bundle.read_engine(ENGINE)


@needs_onnxruntime
@pytest.mark.skipif(find_spec("onnxruntime_ep_nv_tensorrt_rtx") is not None, reason="the plugin is installed")
def test_a_provider_that_is_not_installed_is_named_with_the_line_that_installs_it() -> None:
    bundle = opened()
    for name, extra in (("tensorrt-rtx", "rtx"), ("tensorrt", "trt")):
        with pytest.raises(MissingExtraError, match=rf'pip install .*\[{extra}\]"') as raised:
            choose_provider(name, lambda found: bundle.engine(LATENT_CLASSIFIER, found))
        assert raised.value.exit_code == 5
    assert "tensorrt" not in choose_provider("auto", lambda found: bundle.engine(LATENT_CLASSIFIER, found)).reason


def test_an_engine_is_used_only_from_a_trusted_bundle_that_fits(tmp_path: Path) -> None:
    """The decision for a machine with the right GPU. What would be loaded is read with the package onnx."""
    onnx = pytest.importorskip("onnx")
    unsigned = load_bundle(as_zip(tmp_path, bundle_files(with_engine())))
    here = Site("tensorrt-rtx", "1.7.1.116", "a GPU", 89, this_os(), "580.1", 13000)
    trusted = replace(unsigned, signature=Signature("ab", "lab"))
    assert unsigned._built_engine(LATENT_CLASSIFIER, here) is None
    assert trusted._built_engine(LATENT_CLASSIFIER, replace(here, compute_capability=120)) is None
    assert trusted._built_engine("unet/model.onnx", here) is None
    found = trusted._built_engine(LATENT_CLASSIFIER, here)
    assert found is not None
    (node,) = onnx.load_from_string(found).graph.node
    assert {entry.name: entry.s for entry in node.attribute}["ep_cache_context"] == PLAN


def test_info_labels_each_engine(tmp_path: Path, process_environment: dict[str, str]) -> None:
    path = as_zip(tmp_path, bundle_files(with_engine()))
    done = dpd(["info", str(path)], process_environment, tmp_path)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("engine")]
    assert ENGINE in line
    assert "batch 1 … 20, float32 arithmetic, tensorrt-rtx 1.7.1.116" in line
    assert line.endswith("built and inspected, not executed")
    assert "load only with a trusted signature" in done.stdout
