"""Write an ONNX model to one file, or to a file with its weights beside it, and check it."""

from pathlib import Path

import onnx
from onnxscript import ir

from dpd_export.options import LARGEST_FILE
from dpd_runtime.bundle.graph_check import WEIGHTS_NAME

SMALLEST_OUTSIDE = 1024  # bytes; smaller tensors stay in the graph, where shape inference reads them


def write_graph(model: ir.Model, path: Path, *, largest_file: int = LARGEST_FILE) -> list[Path]:
    """Write the model, run onnx.checker with shape inference, and return the files written.

    Args:
        largest_file: more bytes of weights than this go into `model.onnx_data` beside the graph.
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
