"""PyTorch module → ONNX bytes: named inputs and outputs, dynamic batch, nothing local left inside."""

import io
import warnings
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from dpd_train.base import Base
from dpd_train.classifiers import ResNet

OPSET = 18
SMALLEST_HALVED = 256  # elements; below, a Cast costs more than it saves


@dataclass(frozen=True)
class Graph:
    """One part as it will be exported: `module(*examples)` gives the first output.

    Args:
        examples: one tensor for each input name, batch 2 where the input has a batch axis.
        batched: inputs whose first axis is the batch.
    """

    path: str
    module: nn.Module
    inputs: tuple[str, ...]
    examples: tuple[torch.Tensor, ...]
    output: str

    @property
    def batched(self) -> tuple[bool, ...]:
        return tuple(example.ndim > 0 for example in self.examples)


class _Unet(nn.Module):
    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor
    ) -> torch.Tensor:
        out: torch.Tensor = self.unet(sample, timestep, encoder_hidden_states, return_dict=False)[0]
        return out


class _Decoder(nn.Module):
    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latent_sample: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.vae.decode(latent_sample, return_dict=False)[0]  # type: ignore[operator]
        return out


class _TextEncoder(nn.Module):
    def __init__(self, text_encoder: nn.Module) -> None:
        super().__init__()
        self.text_encoder = text_encoder

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.text_encoder(input_ids).last_hidden_state
        return out


def graphs_of(base: Base, teacher: ResNet, latent_classifier: ResNet, seed: int = 0) -> list[Graph]:
    """Every part of a bundle with random example inputs of its own shapes."""
    generator = torch.Generator().manual_seed(seed)
    unet, side = base.unet.config, base.unet.config.sample_size
    latents = torch.randn(2, unet.in_channels, side, side, generator=generator)
    length = int(base.tokenizer.model_max_length)
    context = torch.randn(2, length, unet.cross_attention_dim, generator=generator)
    ids = torch.randint(len(base.tokenizer), (2, length), generator=generator)
    images = torch.rand(2, 3, base.resolution, base.resolution, generator=generator) * 2 - 1
    sample = ("sample", "timestep", "encoder_hidden_states")
    return [
        Graph("unet/model.onnx", _Unet(base.unet), sample, (latents, torch.tensor(500), context), "out_sample"),
        Graph("vae_decoder/model.onnx", _Decoder(base.vae), ("latent_sample",), (latents,), "sample"),
        Graph("text_encoder/model.onnx", _TextEncoder(base.text_encoder), ("input_ids",), (ids,), "last_hidden_state"),
        Graph("classifier/model.onnx", teacher, ("images",), (images,), "logits"),
        Graph("latent_classifier/model.onnx", latent_classifier, ("latents",), (latents,), "logits"),
    ]


def export_graph(graph: Graph) -> onnx.ModelProto:
    """Trace with the dynamo exporter; weights stay float32."""
    batch = torch.export.Dim("batch", min=1, max=4096)
    shapes = tuple({0: batch} if batched else None for batched in graph.batched)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph.module.eval(),
            graph.examples,
            input_names=list(graph.inputs),
            output_names=[graph.output],
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=shapes,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    remove_metadata(model)
    return model


def remove_metadata(model: onnx.ModelProto) -> None:
    """Delete what exporters leave about the machine: stack traces, paths, names of source files."""

    def clean(graph: onnx.GraphProto) -> None:
        graph.doc_string = ""
        del graph.metadata_props[:]
        for part in (graph.node, graph.input, graph.output, graph.value_info, graph.initializer):
            for entry in part:
                entry.doc_string = ""
                del entry.metadata_props[:]
        for node in graph.node:
            for attribute in node.attribute:
                attribute.doc_string = ""
                if attribute.HasField("g"):
                    clean(attribute.g)

    model.doc_string = ""
    model.producer_name, model.producer_version = "dpd", ""
    model.domain = ""
    del model.metadata_props[:]
    clean(model.graph)
    for function in model.functions:
        function.doc_string = ""
        del function.metadata_props[:]
        for node in function.node:
            node.doc_string = ""
            del node.metadata_props[:]


def halve_weights(model: onnx.ModelProto) -> None:
    """Store float32 weights as float16 with a Cast behind each; arithmetic stays float32."""
    kept, casts = [], []
    for weight in model.graph.initializer:
        count = int(np.prod(weight.dims))
        if weight.data_type != TensorProto.FLOAT or count < SMALLEST_HALVED:
            kept.append(weight)
            continue
        name = weight.name + "_fp16"
        kept.append(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), name))
        casts.append(helper.make_node("Cast", [name], [weight.name], to=TensorProto.FLOAT, name=name + "_cast"))
    nodes = list(model.graph.node)
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(kept)
    model.graph.node.extend(casts + nodes)


def to_bytes(model: onnx.ModelProto) -> bytes:
    """Checked and serialised."""
    onnx.checker.check_model(model)
    buffer = io.BytesIO()
    onnx.save(model, buffer)
    return buffer.getvalue()
