"""The networks of a run as they are exported: one module per graph, with named inputs and variable axes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from dpd_train.bases.base import Base
from dpd_train.classifiers.network import ResNet, count_parameters

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
    """

    path: str
    module: nn.Module
    inputs: tuple[str, ...]
    examples: Tensors
    output: str
    sides: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    multiple: int = 1
    output_sides: tuple[str, str] | None = None

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
