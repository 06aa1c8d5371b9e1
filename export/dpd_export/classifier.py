"""A fitted classifier → ONNX, checked as a bundle's graphs are."""

from pathlib import Path

import torch
from torch import nn
from torch.onnx import OnnxExporterError

from dpd_export.graphs.compile import Compiled, compile_graph
from dpd_export.graphs.parity import probe
from dpd_export.graphs.parts import Graph
from dpd_runtime.annotations import Images
from dpd_runtime.classifier.model import GRAPH_NAME, INPUT, OUTPUT, check_classifier_graph
from dpd_runtime.errors import InputError
from dpd_train.images import to_float


def export_classifier(network: nn.Module, examples: Images, folder: Path) -> Compiled:
    """Write model.onnx into `folder` for images of the examples' size.

    Args:
        network: in evaluation mode. examples: two images, uint8 [2, side, side, 3].

    Raises:
        InputError: PyTorch cannot write this network as ONNX.
        ParityError: the graph is too far from PyTorch.
        BundleError: it needs an operator that `dpd predict` refuses.
    """
    images = to_float(torch.from_numpy(examples)).contiguous()  # the exporter writes other operators for other layouts
    graph = Graph(GRAPH_NAME, network, (INPUT,), (images,), OUTPUT)
    probes = probe(graph, [(images,)])
    try:
        compiled = compile_graph(graph, probes, "fp32", folder, run_half=False)
    except OnnxExporterError as error:
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise InputError(f"this network cannot be written as ONNX ({reason}); use another one") from None
    check_classifier_graph((folder / GRAPH_NAME).read_bytes())
    return compiled
