"""The networks of a run as ONNX graphs: what each computes, halved precision, and the trace."""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from onnxscript import ir
from torch import nn
from torch.overrides import TorchFunctionMode

from dpd_runtime.errors import ParityError
from dpd_train.bases import Base
from dpd_train.networks import ResNet, count_parameters

# -- The networks of a run as they are exported: one module per graph, with named inputs and variable axes.


Tensors = tuple[torch.Tensor, ...]
"""Inputs of one call, in the order of the graph's inputs."""
BATCH = "batch"
UNET_INPUTS = ("sample", "timestep", "encoder_hidden_states")


@dataclass(frozen=True)
class Graph:
    """One part to export: `module(*examples)` gives its only output.

    Args:
        examples: one tensor per input name, with two rows where the input has a batch axis.
        sides: inputs whose height and width vary, with the names of both axes; other inputs keep the example's size.
        multiple: a variable height or width is a multiple of this.
        output_sides: variable height and width of the output, as expressions in the names of `sides`.
        facts: what it says of itself to other tools (`dpd_runtime.graph_facts`).
    """

    path: str
    module: nn.Module
    inputs: tuple[str, ...]
    examples: Tensors
    output: str
    sides: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    multiple: int = 1
    output_sides: tuple[str, str] | None = None
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def part(self) -> str:
        """Folder of the graph: unet, vae_decoder, …"""
        return self.path.split("/")[0]

    @property
    def weights(self) -> int:
        """Number of parameters that the graph holds."""
        return count_parameters(self.module)


class Unet(nn.Module):
    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor
    ) -> torch.Tensor:
        out: torch.Tensor = self.unet(sample, timestep, encoder_hidden_states, return_dict=False)[0]
        return out


class VaeDecoder(nn.Module):
    """`AutoencoderKL.decode` without the encoder's weights."""

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.convolution, self.decoder = vae.post_quant_conv, vae.decoder

    def forward(self, latent_sample: torch.Tensor) -> torch.Tensor:
        latents = latent_sample if self.convolution is None else self.convolution(latent_sample)  # type: ignore[operator]
        out: torch.Tensor = self.decoder(latents)  # type: ignore[operator]
        return out


class VaeEncoder(nn.Module):
    """`AutoencoderKL.encode` without the decoder's weights: mean and log variance [B, 2C, h, w]."""

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.encoder, self.convolution = vae.encoder, vae.quant_conv

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        moments: torch.Tensor = self.encoder(sample)  # type: ignore[operator]
        return moments if self.convolution is None else self.convolution(moments)  # type: ignore[no-any-return, operator]


class TextEncoder(nn.Module):
    def __init__(self, text_encoder: nn.Module) -> None:
        super().__init__()
        self.text_encoder = text_encoder

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.text_encoder(input_ids).last_hidden_state
        return out


def unet_graph(base: Base, generator: torch.Generator) -> Graph:
    """The UNet with random examples."""
    unet, side = base.unet.config, base.unet.config.sample_size
    latents = torch.randn(2, unet.in_channels, side, side, generator=generator)
    context = torch.randn(2, int(base.tokenizer.model_max_length), unet.cross_attention_dim, generator=generator)
    return Graph("unet/model.onnx", Unet(base.unet), UNET_INPUTS, (latents, torch.tensor(500), context), "out_sample")


def decoder_graph(base: Base, seed: int = 0) -> Graph:
    """The VAE's decoder with random examples: the only graph of a codes-only bundle."""
    unet, generator = base.unet.config, torch.Generator().manual_seed(seed)
    latents = torch.randn(2, unet.in_channels, unet.sample_size, unet.sample_size, generator=generator)
    return _decoder(base, latents)


def _decoder(base: Base, latents: torch.Tensor) -> Graph:
    return Graph("vae_decoder/model.onnx", VaeDecoder(base.vae), ("latent_sample",), (latents,), "sample")


def graphs_of(
    base: Base,
    teacher: ResNet,
    latent_classifier: ResNet,
    *,
    vae_encoder: bool = False,
    dynamic_size: bool = False,
    seed: int = 0,
) -> list[Graph]:
    """Every part of a bundle, with random example inputs.

    Args:
        vae_encoder: include the VAE's encoder, which generation does not need.
        dynamic_size: let height and width vary in UNet and VAE; the classifiers keep the base's size.
    """
    generator = torch.Generator().manual_seed(seed)
    unet = unet_graph(base, generator)
    latents, _, context = unet.examples
    ids = torch.randint(len(base.tokenizer), context.shape[:2], generator=generator)
    images = torch.rand(2, 3, base.resolution, base.resolution, generator=generator) * 2 - 1
    graphs = [
        unet,
        _decoder(base, latents),
        Graph("text_encoder/model.onnx", TextEncoder(base.text_encoder), ("input_ids",), (ids,), "last_hidden_state"),
        Graph("classifier/model.onnx", teacher, ("images",), (images,), "logits"),
        Graph("latent_classifier/model.onnx", latent_classifier, ("latents",), (latents,), "logits"),
    ]
    if vae_encoder:
        graphs.append(
            Graph("vae_encoder/model.onnx", VaeEncoder(base.vae), ("sample",), (images,), "latent_parameters")
        )
    return [_of_any_size(graph, base) for graph in graphs] if dynamic_size else graphs


def _of_any_size(graph: Graph, base: Base) -> Graph:
    latent, pixels, factor = ("latent_height", "latent_width"), ("height", "width"), base.downsampling
    if graph.part == "unet":
        levels = len(base.unet.config.block_out_channels)
        return replace(graph, sides={"sample": latent}, multiple=2 ** (levels - 1), output_sides=latent)
    if graph.part == "vae_decoder":
        larger = (f"{latent[0]} * {factor}", f"{latent[1]} * {factor}")
        return replace(graph, sides={"latent_sample": latent}, output_sides=larger)
    if graph.part == "vae_encoder":
        smaller = (f"{pixels[0]} // {factor}", f"{pixels[1]} // {factor}")
        return replace(graph, sides={"sample": pixels}, multiple=factor, output_sides=smaller)
    return graph


# -- Inputs of the UNet that set the ranges of int8 and rank filters.


@dataclass(frozen=True)
class Calibration:
    """Inputs of the UNet recorded while PyTorch generates.

    Args:
        calls: all with the same number of rows.
        batch: rows in one call when the bundle generates.
    """

    calls: list[Tensors]
    batch: int

    def one_call(self) -> Tensors:
        """Rows of all calls as a single call of `batch` rows, at the timestep of the middle call."""
        columns = zip(*self.calls, strict=True)
        rows = [column[len(column) // 2] if not column[0].ndim else torch.cat(column) for column in columns]
        return tuple(x[torch.arange(self.batch) % len(x)] if x.ndim else x for x in rows)


# -- True half precision: weights and activations in float16, with islands of float32 where float16 is not enough.
#
# Islands are norms, softmax, means over an image, the sinusoids of the timestep (diffusers computes these in float32
# itself), and attention scores where the base needs it. Inputs and outputs stay float32, because solver, guidance and
# images use it and optimum's pipelines expect one type for all of them.


HALF_MAX = 65504.0
HEADROOM = 4.0
"""Activations are safe if they stay this factor below float16's largest value: other prompts may reach further."""
MASKED = 1e30  # larger values stand for −∞ in a mask and are not counted
NORMS = (nn.GroupNorm, nn.LayerNorm)
ISLANDS: frozenset[Callable[..., Any]] = frozenset(
    (F.group_norm, F.layer_norm, F.softmax, torch.softmax, torch.Tensor.softmax, torch.mean, torch.Tensor.mean)
)


def _float(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) and value.dtype == torch.float16 else value


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    wide_scores: bool = False,
) -> torch.Tensor:
    """`scaled_dot_product_attention` with the softmax in float32; products stay in the type of the inputs.

    Query and key are scaled before the product, so that no intermediate score is larger than the softmax's input.

    Args:
        wide_scores: compute the product of query and key in float32 too.
    """
    if dropout_p or enable_gqa:
        raise NotImplementedError("attention with dropout or grouped queries is not exported in half precision")
    root = float(query.shape[-1] ** -0.5 if scale is None else scale) ** 0.5
    if wide_scores:
        query, key = query.float(), key.float()
    scores = ((query * root) @ (key * root).transpose(-1, -2)).float()
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, float("-inf"))
    elif attn_mask is not None:
        scores = scores + attn_mask.float()
    return torch.softmax(scores, -1).to(value.dtype) @ value


class Islands(TorchFunctionMode):
    """Run the functions of ISLANDS in float32 and return float16. Tracing records the casts."""

    def __init__(self, wide_scores: bool) -> None:
        super().__init__()
        self.wide_scores = wide_scores

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        half = bool(args) and isinstance(args[0], torch.Tensor) and args[0].dtype == torch.float16
        if half and func is F.scaled_dot_product_attention:
            return attention(*args, **given, wide_scores=self.wide_scores)
        if half and func in ISLANDS:
            out = func(*map(_float, args), **{name: _float(value) for name, value in given.items()})
            return out.to(torch.float16) if out.dtype == torch.float32 else out
        return func(*args, **given)


class HalfPrecision(nn.Module):
    """A module in half precision between float32 inputs and outputs."""

    def __init__(self, module: nn.Module, wide_scores: bool = False) -> None:
        super().__init__()
        self.module, self.wide_scores = module, wide_scores

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        narrow = [value.half() if value.is_floating_point() else value for value in inputs]
        with Islands(self.wide_scores):
            out: torch.Tensor = self.module(*narrow)
        return out.float()


@torch.no_grad()
def halve(module: nn.Module) -> None:
    """Convert weights to float16 in place, one at a time to save memory. Norms keep float32.

    Raises:
        ParityError: a weight exceeds float16.
    """
    kept = {id(p) for norm in module.modules() if isinstance(norm, NORMS) for p in norm.parameters()}
    tensors = [(name, p) for name, p in [*module.named_parameters(), *module.named_buffers()] if id(p) not in kept]
    for name, tensor in tensors:
        if not tensor.is_floating_point():
            continue
        half = tensor.data.half()
        if not torch.isfinite(half).all():
            raise ParityError(f"weight {name} does not fit into half precision; use --precision fp16-weights or fp32")
        tensor.data = half


def wants_wide_scores(module: nn.Module) -> bool:
    """Whether the base's config says that attention scores overflow in half precision (SD-2.1 at 768 pixels)."""
    return any(isinstance(part, Attention) and bool(part.upcast_attention) for part in module.modules())


class Ranges(TorchFunctionMode):
    """Record the largest values of a float32 module while it runs.

    Attributes:
        largest: largest |value| that any function returned, without infinities and mask values.
        scores: upper bound of all attention scores, max ‖q‖ · max ‖k‖ · scale (Cauchy–Schwarz), since the scores
            themselves are not visible.
    """

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.scores = 0.0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        out = func(*args, **given)
        if func is F.scaled_dot_product_attention:
            self.scores = max(self.scores, _score_bound(*args[:2], **given))
        if isinstance(out, torch.Tensor) and out.is_floating_point() and out.numel():
            largest = float(torch.linalg.vector_norm(out.detach(), float("inf")))
            if self.largest < largest < MASKED:
                self.largest = largest
        return out

    @property
    def wide_scores(self) -> bool:
        """Whether attention scores may exceed half precision."""
        return not self.scores * HEADROOM <= HALF_MAX

    def check(self, path: str) -> None:
        """Check that half precision holds the activations.

        Raises:
            ParityError: it may not.
        """
        if not self.largest * HEADROOM <= HALF_MAX:
            raise ParityError(
                f"{path}: activations reach {self.largest:.3g}, half precision ends at {HALF_MAX:.0f}; "
                "use --precision fp16-weights or fp32"
            )


def _score_bound(query: torch.Tensor, key: torch.Tensor, scale: float | None = None, **_: object) -> float:
    lengths = [float(value.detach().norm(dim=-1).max()) for value in (query, key)]
    return lengths[0] * lengths[1] * float(query.shape[-1] ** -0.5 if scale is None else scale)


# -- Trace a PyTorch module to ONNX in memory with the dynamo exporter, with named axes and no traces of this machine.


OPSET = 18
SMALLEST_HALVED = 256  # elements; for fewer, a Cast costs more than it saves
QUANTIZED = ("QuantizeLinear", "DequantizeLinear")
QUIET = ("onnxscript", "onnx_ir", "torch.onnx._internal.exporter._registration")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's advice, which is meant for authors of models."""
    loggers = [logging.getLogger(name) for name in QUIET]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _dynamic_shapes(graph: Graph) -> tuple[dict[int, Any] | None, ...]:
    """The variable axes of each input, for torch.export; other axes are as in the example."""
    batch = torch.export.Dim(BATCH, min=1, max=4096)
    named = {name: torch.export.Dim(name, min=1, max=1024) for pair in graph.sides.values() for name in pair}
    shapes: list[dict[int, Any] | None] = []
    for name, example in zip(graph.inputs, graph.examples, strict=True):
        axes: dict[int, Any] = {0: batch} if example.ndim else {}
        for axis, side in enumerate(graph.sides.get(name, ()), start=2):
            axes[axis] = graph.multiple * named[side] if graph.multiple > 1 else named[side]
        shapes.append(axes or None)
    return tuple(shapes)


def export_graph(graph: Graph) -> ir.Model:
    """Trace `graph.module` as it is: float32, or a `HalfPrecision`."""
    module = graph.module.eval()
    shapes = _dynamic_shapes(graph)
    with _quiet():
        program = torch.onnx.export(
            module,
            graph.examples,
            input_names=list(graph.inputs),
            output_names=[graph.output],
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=(shapes,) if isinstance(module, HalfPrecision) else shapes,  # its inputs are one *tuple
            verbose=False,
        )
    assert program is not None
    model: ir.Model = program.model
    _leave_sizes_to_reshape(model)
    _name_axes(model, graph)
    remove_metadata(model)
    model.metadata_props.update(graph.facts)
    return model


def _leave_sizes_to_reshape(model: ir.Model) -> None:
    """Let Reshape find the one size of a tensor that the graph computes by a division of sizes.

    Around attention the exporter divides by the number of rows. Sites refuse a division of whole numbers by what is
    computed, because a zero there stops the process (`dpd_runtime.graph_check`).
    """
    divisions = [node for node in model.graph if node.op_type == "Div" and node.outputs[0].dtype == ir.DataType.INT64]
    divisions = [node for node in divisions if node.inputs[1] is not None and node.inputs[1].const_value is None]
    for node in divisions:
        for use, _ in list(node.outputs[0].uses()):  # a scalar becomes a list of one size
            if use.op_type == "Reshape" and all(user.op_type == "Concat" for user, _ in use.outputs[0].uses()):
                rest = ir.Value(name=f"{use.outputs[0].name}_rest", shape=ir.Shape([1]), type=node.outputs[0].type)
                rest.const_value = ir.tensor(np.array([-1], np.int64), name=rest.name)
                model.graph.register_initializer(rest)
                ir.convenience.replace_all_uses_with(use.outputs[0], rest)
    for node in reversed(list(model.graph)) if divisions else ():  # what only they needed
        if not any(out.uses() or out in model.graph.outputs for out in node.outputs):
            model.graph.remove(node, safe=True)


def _name_axes(model: ir.Model, graph: Graph) -> None:
    """Name the variable axes: other tools compute an output's size from the names of its axes."""
    for value in model.graph.inputs:
        for axis, side in enumerate(graph.sides.get(str(value.name), ()), start=2):
            _rename(value, axis, side)
    for axis, side in enumerate(graph.output_sides or (), start=2):
        _rename(model.graph.outputs[0], axis, side)


def _rename(value: ir.Value, axis: int, name: str) -> None:
    assert value.shape is not None
    dims = list(value.shape)
    dims[axis] = ir.SymbolicDim(name)
    value.shape = ir.Shape(dims)


def remove_metadata(model: ir.Model) -> None:
    """Delete what the exporter leaves of this machine: stack traces, paths, names of source files."""
    model.producer_name, model.producer_version, model.domain, model.doc_string = "dpd", None, None, None
    model.metadata_props.clear()
    for graph in (model.graph, *(function.graph for function in model.functions.values()), *model.graph.subgraphs()):
        graph.doc_string = None
        graph.metadata_props.clear()
        values = [*graph.inputs, *graph.outputs, *graph.initializers.values()]
        for node in graph:
            node.doc_string = None
            node.metadata_props.clear()
            values += node.outputs
        for value in values:
            value.doc_string = None
            value.metadata_props.clear()


def store_weights_as_half(model: ir.Model) -> None:
    """Store weights as float16, each followed by a Cast to float32. Scales of int8 weights stay as they are."""
    casts = []
    for name, value in list(model.graph.initializers.items()):
        tensor = value.const_value
        scale = any(node.op_type in QUANTIZED for node, _ in value.uses())
        if scale or tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size < SMALLEST_HALVED:
            continue
        stored = ir.Value(name=f"{name}_fp16", shape=value.shape, type=ir.TensorType(ir.DataType.FLOAT16))
        stored.const_value = ir.tensor(tensor.numpy().astype(np.float16), name=stored.name)
        cast = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT}, name=f"{name}_cast")
        cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), value.shape
        model.graph.initializers.pop(name)
        cast.outputs[0].name = name
        model.graph.register_initializer(stored)
        ir.convenience.replace_all_uses_with(value, cast.outputs[0])
        casts.append(cast)
    model.graph.insert_before(model.graph[0], casts)
