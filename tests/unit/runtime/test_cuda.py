"""What of the CUDA path can be tested without a GPU: onnxruntime's own functions, and where nodes are placed."""

import inspect
import warnings

import pytest

from dpd_runtime.engines import Provider, preload_cuda
from dpd_runtime.errors import ProviderError
from dpd_runtime.sessions import SHAPE_OPS, OnnxRuntimeEngine, _placement, check_placement
from tests.drawn import opened

onnxruntime = pytest.importorskip("onnxruntime")
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def test_onnxruntime_has_what_is_used() -> None:
    assert "directory" in inspect.signature(onnxruntime.preload_dlls).parameters
    options = onnxruntime.SessionOptions()
    assert options.use_deterministic_compute is False
    options.use_deterministic_compute = True
    assert options.use_deterministic_compute is True


def test_loading_libraries_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    preload_cuda.cache_clear()
    preload_cuda()
    assert capfd.readouterr().out == ""


def test_a_session_tells_where_its_nodes_run() -> None:
    """The graph runs on the CPU here; for a session that asked for CUDA this is the error that it has to be."""
    graph = opened().files["vae_decoder/model.onnx"]
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(graph, options, providers=[CPU])
    nodes = _placement(session)
    assert {placed for placed, _, _ in nodes} == {CPU}
    assert "Conv" in {op for _, op, _ in nodes}
    check_placement(nodes, "cpu", CPU)
    with pytest.raises(ProviderError, match="provider cuda: it would run no node of the graph; use --provider cpu"):
        check_placement(nodes, "cuda", CUDA)


def test_only_sizes_may_be_computed_on_the_cpu() -> None:
    placed = [(CUDA, "Conv", "a"), *((CPU, op, "b") for op in sorted(SHAPE_OPS))]
    check_placement(placed, "cuda", CUDA)
    with pytest.raises(ProviderError, match="1 node would run elsewhere, such as MatMul c"):
        check_placement([*placed, (CPU, "MatMul", "c")], "cuda", CUDA)


def test_cuda_without_its_package_is_one_line() -> None:
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-gpu is installed")
    graph = opened().files["latent_classifier/model.onnx"]
    with (
        warnings.catch_warnings(action="ignore"),  # onnxruntime says it too
        pytest.raises(ProviderError, match="onnxruntime could not load CUDAExecutionProvider"),
    ):
        OnnxRuntimeEngine(graph, Provider("cuda", "", 3), 1)
