"""Engines that `dpd engines` builds for this machine. TensorRT for RTX, which needs no GPU to build, stands for it."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
import pytest

from dpd_export import engines
from dpd_export.builder import DEFAULT_PARTS, FLAVOURS
from dpd_export.engines import build_for_this_machine, built
from dpd_runtime import Bundle, load_bundle, sessions
from dpd_runtime import bundle as bundle_module
from dpd_runtime.engine_files import kept_model, working_folder
from dpd_runtime.engines import Provider
from dpd_runtime.errors import InputError, ProviderError
from dpd_runtime.tensorrt import Site, this_os

TENSORRT = Provider("tensorrt", "a test")


def ignore(done: int, total: int) -> None:
    """No progress."""


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """The embedded bundle, on a machine whose GPU and TensorRT are invented."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    site = Site("tensorrt", "10.13.0.1", "A GPU", 89, this_os(), "580.95", 13000)
    monkeypatch.setattr(bundle_module, "this_site", lambda *about: site)
    monkeypatch.setattr(sessions, "flavour_version", lambda flavour: site.version)
    return load_bundle()


def test_only_the_graphs_of_a_trusted_bundle_are_parsed_in_this_process(bundle: Bundle) -> None:
    unsigned = replace(bundle, hash="0" * 64)
    with pytest.raises(ProviderError, match="only of a bundle that a trusted key signed, and this one is unsigned"):
        build_for_this_machine(unsigned, TENSORRT, ignore)


def test_another_gpu_than_the_first_is_refused(bundle: Bundle) -> None:
    with pytest.raises(InputError, match=r"--device 1: tensorrt builds on the first GPU; .* CUDA_VISIBLE_DEVICES"):
        build_for_this_machine(bundle, replace(TENSORRT, gpu=1), ignore)


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason='no tensorrt-rtx: pip install "dpd-distill[rtx-build]"')
def test_each_engine_is_built_once_and_is_where_the_runtime_looks(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds: list[str] = []

    def counted(build: Any, *others: Any) -> Any:
        builds.append(build.part)
        return built(build, *others)

    monkeypatch.setattr(engines, "flavour_of", lambda name: FLAVOURS["tensorrt-rtx"])
    monkeypatch.setattr(engines, "check_capabilities", lambda *about: (89,))
    monkeypatch.setattr(engines, "built", counted)
    for _ in range(2):
        build_for_this_machine(bundle, TENSORRT, ignore)
    assert tuple(builds) == DEFAULT_PARTS
    folder = working_folder(bundle.engine_cache(bundle.site(TENSORRT)))
    for part in DEFAULT_PARTS:
        graph = bundle.files[f"{part}/model.onnx"]
        model, own = onnx.load_from_string(kept_model(folder, graph)), onnx.load_from_string(graph)
        (node,) = model.graph.node
        assert node.op_type == "EPContext"
        assert {entry.name for entry in model.graph.input} == {entry.name for entry in own.graph.input}
        assert [entry.name for entry in model.graph.output] == [entry.name for entry in own.graph.output]
