"""Conditions at deployment sites: missing libraries, links in place of files, and file permissions."""

import os
import warnings
from pathlib import Path

import pytest

from dpd_runtime import embedded_bundle, load_bundle
from dpd_runtime.engines import Provider
from dpd_runtime.errors import ProviderError
from dpd_runtime.formats import Output
from tests.drawn import files, opened, write


def test_a_provider_that_onnxruntime_leaves_out_is_no_silent_cpu_run() -> None:
    """onnxruntime opens a session on the CPU where CUDA's libraries, or the whole provider, are missing."""
    onnxruntime = pytest.importorskip("onnxruntime")
    graph = "latent_classifier/model.onnx"
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers() and Path("/dev/nvidiactl").exists():
        pytest.skip("CUDA may work here")
    with warnings.catch_warnings(action="ignore"):  # it may say so, on one of many lines
        session = onnxruntime.InferenceSession(opened().files[graph], providers=["CUDAExecutionProvider"])
    assert session.get_providers() == ["CPUExecutionProvider"]
    with (
        warnings.catch_warnings(action="ignore"),
        pytest.raises(ProviderError, match=r"^provider cuda: .* would run on the CPU; use --provider cpu"),
    ):
        opened().engine(graph, Provider("cuda", "asked for"), 1)


@pytest.mark.parametrize("link", ["symbolic", "hard"])
def test_a_bundle_may_lie_in_a_store_of_links(link: str, tmp_path: Path) -> None:
    """As in the caches of model hubs and package managers."""
    blob = tmp_path / "blobs" / "0123"
    blob.parent.mkdir()
    blob.write_bytes(embedded_bundle().read_bytes())
    place = tmp_path / "snapshots" / "site.dpd"
    place.parent.mkdir()
    if link == "symbolic":
        place.symlink_to("../blobs/0123")
    else:
        os.link(blob, place)
    blob.chmod(0o400)
    bundle = load_bundle(place)
    assert bundle.hash == opened().hash
    bundle.engine("latent_classifier/model.onnx", Provider("cpu", ""), 1)
    assert sorted(p.name for p in tmp_path.rglob("*") if not p.is_dir()) == ["0123", "site.dpd"]


@pytest.mark.parametrize("mask", [0o000, 0o077], ids=oct)
def test_any_umask_leaves_the_same_set(mask: int, tmp_path: Path) -> None:
    expected = write(tmp_path / "plain", Output())
    before = os.umask(mask)
    try:
        found = write(tmp_path / "masked", Output())
    finally:
        os.umask(before)
    assert found.set_hash == expected.set_hash
    assert files(tmp_path / "masked") == files(tmp_path / "plain")
    assert (tmp_path / "masked" / "dataset.json").stat().st_mode & 0o777 == 0o666 & ~mask
