"""A fitted classifier → ONNX, checked as a bundle's graphs are."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.onnx import OnnxExporterError

from dpd_export.compile import Compiled, compile_graph, probe
from dpd_export.graphs import Graph
from dpd_runtime.annotations import Images
from dpd_runtime.classifier import (
    GRAPH_NAME,
    INPUT,
    OUTPUT,
    ClassifierRecord,
    check_classifier_graph,
    classifier_card,
    write_classifier,
)
from dpd_runtime.errors import InputError
from dpd_runtime.graph_facts import classifier_facts
from dpd_runtime.sealing import file_entry
from dpd_runtime.versions import package_versions, versions
from dpd_train.scene_set import to_float


def export_classifier(network: nn.Module, examples: Images, classes: Sequence[str], folder: Path) -> Compiled:
    """Write model.onnx into `folder` for images of the examples' size.

    Args:
        network: in evaluation mode. examples: two images, uint8 [2, side, side, 3].
        classes: in the order of the logits.

    Raises:
        InputError: PyTorch cannot write this network as ONNX.
        ParityError: the graph is too far from PyTorch.
        BundleError: it needs an operator that `dpd predict` refuses.
    """
    # the exporter writes other operators for other layouts, of weights too, which a training has left channels last
    images = to_float(torch.from_numpy(examples)).contiguous()
    plain = network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    side = examples.shape[1]
    graph = Graph(GRAPH_NAME, plain, (INPUT,), (images,), OUTPUT, facts=classifier_facts(classes, side))
    probes = probe(graph, [(images,)])
    try:
        compiled = compile_graph(graph, probes, "fp32", folder, run_half=False)
    except OnnxExporterError as error:
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise InputError(f"this network cannot be written as ONNX ({reason}); use another one") from None
    check_classifier_graph((folder / GRAPH_NAME).read_bytes(), classes, side)
    return compiled


def save_classifier(
    out: Path,
    network: nn.Module,
    examples: Images,
    *,
    classes: tuple[str, ...],
    described: str,
    training: Mapping[str, Any],
    validation: Mapping[str, float] = {},
    overwrite: bool = False,
) -> ClassifierRecord:
    """Write the folder of a classifier: graph, record and card. Returns the record.

    Args:
        network, examples: as `export_classifier`. described: what the network is. training: how it was made; parity and
            versions are added.

    Raises:
        InputError, ParityError, BundleError, DiskError: as `export_classifier` and `write_classifier`.
    """
    with tempfile.TemporaryDirectory() as scratch:
        compiled = export_classifier(network, examples, classes, Path(scratch))
        graph, entry = compiled.files[0].read_bytes(), file_entry(compiled.files[0])
    made_with = versions() | package_versions("torch", "transformers", "onnx")
    record = ClassifierRecord(
        classes=classes,
        side=examples.shape[1],
        graph=entry,
        network=described,
        validation=validation,
        training={**training, "parity": compiled.random, "versions": made_with},
    )
    write_classifier(out, graph, record, classifier_card(record), overwrite=overwrite)
    return record
