"""The allow-list of operators is what `dpd export` emits: no graph of any kind needs another, and none is idle."""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

import onnx
import torch
from diffusers import UNet2DConditionModel
from onnxscript import ir
from torch import nn
from transformers import (
    AutoModelForImageClassification,
    ConvNextV2Config,
    Dinov2Config,
    EfficientNetConfig,
    MobileNetV2Config,
    SiglipConfig,
    ViTConfig,
)

from dpd_eval.backbones import open_backbone
from dpd_eval.pretrained import NAMES
from dpd_eval.students import at_inference, build_student
from dpd_export.graphs import Graph, HalfPrecision, export_graph, graphs_of, halve, store_weights_as_half
from dpd_export.int8 import quantize
from dpd_private.budget import Budget
from dpd_private.classifier import ReleasedClassifier
from dpd_private.limited_watchers import limited_watchers
from dpd_private.release import release
from dpd_runtime.graph_check import OPERATORS, OPERATORS_OF, check_graph
from dpd_train.bases import Base, load_base, nano_unet
from dpd_train.networks import ResNet, ResNetConfig
from tests.sd_like import sd_like
from tests.tiny import tiny_base
from tests.unit.train.test_matching import network

Make = Callable[[Path], Iterable[ir.Model]]
TRACED: list[tuple[Graph, bytes]] = []


def operators(model: ir.Model) -> set[str]:
    """The operators of a graph that a site accepts from anybody."""
    content = ir.serde.serialize_model(model).SerializeToString()
    assert check_graph("x.onnx", content) == ()
    return {node.op_type for node in model.graph}


def graphs(base: Base, *parts: str, **options: bool) -> list[Graph]:
    channels = int(base.unet.config.in_channels)
    networks = [ResNet(ResNetConfig(num_classes=3, in_channels=count)).eval() for count in (3, channels)]
    return [graph for graph in graphs_of(base, *networks, **options) if not parts or graph.part in parts]


def tiny(folder: Path) -> Base:
    return load_base(str(tiny_base(folder)))


def like_nano(folder: Path) -> Base:
    """The tiny base with a UNet that differs from the shipped base's in its width alone."""
    config = dict(nano_unet().config) | {"sample_size": 8, "block_out_channels": (8, 16, 16), "cross_attention_dim": 16}
    return replace(tiny(folder), unet=UNet2DConditionModel(**config | {"norm_num_groups": 4}).eval())


def of(part: str) -> Make:
    return lambda folder: [export_graph(graph) for graph in graphs(tiny(folder), part)]


def half(base: Base) -> Iterable[ir.Model]:
    for graph in graphs(base):
        halve(graph.module)
        yield export_graph(replace(graph, module=HalfPrecision(graph.module, True)))


def traced_unet(folder: Path) -> tuple[Graph, ir.Model]:
    """The tiny UNet, which is traced once: two cases look at it."""
    if not TRACED:
        (graph,) = graphs(tiny(folder), "unet")
        TRACED.append((graph, ir.to_proto(export_graph(graph)).SerializeToString()))
    graph, content = TRACED[0]
    return graph, ir.from_proto(onnx.load_from_string(content))


def int8(folder: Path) -> Iterable[ir.Model]:
    graph, model = traced_unet(folder)
    model, _ = quantize(model, graph.inputs, [graph.examples])
    store_weights_as_half(model)
    return [model]


def any_size(folder: Path) -> Iterable[ir.Model]:
    base = load_base(str(sd_like(folder / "base")))
    return map(export_graph, graphs(base, "unet", "vae_decoder", "vae_encoder", vae_encoder=True, dynamic_size=True))


def traced(network: nn.Module) -> ir.Model:
    images = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return export_graph(Graph("model.onnx", network.eval(), ("images",), (images,), "logits"))


def students(folder: Path) -> Iterable[ir.Model]:
    return [traced(at_inference(build_student(name, 3, 0))) for name in (*NAMES, "dsdnet:resnet")]


def backbones(folder: Path) -> Iterable[ir.Model]:
    """Small ones of the families that people start from."""
    vit = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    vit |= {"image_size": 32, "patch_size": 8}
    sizes = {"hidden_sizes": [8, 16], "depths": [1, 1]}
    configs = [
        ViTConfig(**vit),
        Dinov2Config(**vit),
        SiglipConfig(vision_config=vit),
        ConvNextV2Config(**sizes, num_stages=2),
        MobileNetV2Config(depth_multiplier=0.25, image_size=32),
        EfficientNetConfig(width_coefficient=0.1, depth_coefficient=0.1, image_size=32, hidden_dim=128),
    ]
    for number, config in enumerate(configs):
        AutoModelForImageClassification.from_config(config).save_pretrained(folder / str(number))
        (folder / str(number) / "preprocessor_config.json").write_text('{"size": 32}')
        yield traced(open_backbone(str(folder / str(number)), 3))


def released(folder: Path) -> Iterable[ir.Model]:
    images, labels, networks = torch.rand(40, 3, 24, 24) * 2 - 1, torch.arange(40) % 2, [network(1)]
    watchers = limited_watchers(networks, images, labels, 2, 8, 0)
    return [traced(ReleasedClassifier(networks, release(watchers, images, labels, 2, Budget(epsilon=math.inf))))]


CASES: dict[str, Make] = {
    "classifiers": lambda folder: [*of("classifier")(folder), *of("latent_classifier")(folder)],
    "VAE decoder": of("vae_decoder"),
    "text encoder": of("text_encoder"),
    "UNet": lambda folder: [traced_unet(folder)[1]],
    "UNet of nano": lambda folder: [export_graph(graph) for graph in graphs(like_nano(folder), "unet")],
    "--precision fp16": lambda folder: half(tiny(folder)),
    "--precision int8": int8,
    "--dynamic-size": any_size,
    "dpd fit": students,
    "dpd fit --backbone": backbones,
    "dpd private": released,
}


LONG = {*CASES} - {"VAE decoder", "text encoder"}


@pytest.mark.parametrize("case", [pytest.param(name, marks=[pytest.mark.full] * (name in LONG)) for name in CASES])
def test_each_operator_is_needed_by_what_names_it(case: str, tmp_path: Path) -> None:
    earlier: set[str] = set()
    for name, listed in OPERATORS_OF.items():
        if name == case:
            break
        earlier |= set(listed.split())
    emitted = set().union(*map(operators, CASES[case](tmp_path)))
    assert emitted - earlier == set(OPERATORS_OF[case].split())


def test_every_entry_has_its_case() -> None:
    assert list(CASES) == list(OPERATORS_OF)
    assert sum(len(listed.split()) for listed in OPERATORS_OF.values()) == len(OPERATORS), "each is named once"


@pytest.mark.full
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("version", "unet"), [(1, {}), (2, {"upcast_attention": True})], ids=["sd1", "sd2"])
def test_other_bases_need_no_other_operator(
    version: int, unet: dict[str, object], precision: str, tmp_path: Path
) -> None:
    base = load_base(str(sd_like(tmp_path / "base", version=version, **unet)))
    models = half(base) if precision == "fp16" else map(export_graph, graphs(base, vae_encoder=True))
    assert set().union(*map(operators, models)) <= OPERATORS
