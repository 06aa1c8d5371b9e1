"""ONNX in memory → one file, or a file and its weights beside it, checked."""

from pathlib import Path

import onnx
from onnxscript import ir

from dpd_runtime.bundle.verified import WEIGHTS_NAME

LARGEST_FILE = 2_000_000_000  # bytes of weights; protobuf ends at 2 GiB
SMALLEST_OUTSIDE = 1024  # bytes; shapes and scalars stay in the graph, where shape inference sees them


def write_graph(model: ir.Model, path: Path, *, largest_file: int = LARGEST_FILE) -> list[Path]:
    """Write, run onnx.checker with shape inference, and tell which files there are now.

    Args:
        largest_file: weights of more bytes than that go into `model.onnx_data` beside the graph.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
    if weights <= largest_file:
        ir.save(model, path)
        files = [path]
    else:
        ir.save(model, path, external_data=WEIGHTS_NAME, size_threshold_bytes=SMALLEST_OUTSIDE)
        files = [path, path.with_name(WEIGHTS_NAME)]
    onnx.checker.check_model(str(path), full_check=True)
    return files
