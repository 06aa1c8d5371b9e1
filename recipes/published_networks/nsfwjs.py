"""Write NSFWJS's two networks as folders of transformers: judges of other families, MobileNetV2 and Inception v3.

    npm pack nsfwjs@4.3.0 && tar xzf nsfwjs-4.3.0.tgz
    python nsfwjs.py package/dist/models mobilenet_v2 networks/nsfwjs-mobilenet
    python nsfwjs.py package/dist/models inception_v3 networks/nsfwjs-inception     # needs timm

Both (MIT) began at ImageNet's weights and then learned photographs, with the earlier half of their layers frozen; the
package holds them with eight bits a number. The three layers behind their last maps are left out: the last layer of a
folder is new, and a probe or a tuning fits its own. Beside TensorFlow.js on four images of EuroSAT, MobileNetV2's
features differ by 5e-6 of at most 5.7; those of Inception have cosines of 0.90 to 0.99, as timm's average pooling
counts the zeros around an image. They judge sets and watch none.
"""

import argparse
import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

SIDES = {"mobilenet_v2": 224, "inception_v3": 299}
BASE64 = re.compile(rb"[A-Za-z0-9+/=]{1000,}")


def read_weights(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a model in the package, by name, in the order in which layers were built."""
    manifest = re.search(rb"weightsManifest:(\[.*?\]\}\])", (folder / "model.min.js").read_bytes())
    assert manifest is not None
    quoted = re.sub(r"([{,])(\w+):", r'\1"\2":', manifest[1].decode())
    specs = json.loads(re.sub(r":(-?)\.", r":\g<1>0.", quoted))
    shards = sorted(folder.glob("group1-shard*"))
    data = b"".join(base64.b64decode(max(BASE64.findall(shard.read_bytes()), key=len)) for shard in shards)
    arrays, at = dict[str, np.ndarray](), 0
    for spec in specs[0]["weights"]:
        count, stored = int(np.prod(spec["shape"])), spec["quantization"]
        numbers = np.frombuffer(data, stored["dtype"], count, at)
        arrays[spec["name"]] = (stored["scale"] * numbers + stored["min"]).astype(np.float32).reshape(spec["shape"])
        at += numbers.nbytes
    assert at == len(data), f"{len(data) - at} bytes are left"
    return arrays


def mobilenet() -> tuple[nn.Module, list[tuple[str, str]]]:
    """An empty MobileNetV2, and the names of its convolutions and normalisations in their order."""
    config = MobileNetV2Config(num_labels=2, hidden_act="relu6", tf_padding=True, layer_norm_eps=1e-3)
    parts = ["expanded_conv_depthwise", "expanded_conv_project"]
    parts += [f"block_{block}_{part}" for block in range(1, 17) for part in ("expand", "depthwise", "project")]
    names = [("Conv1", "bn_Conv1"), *((part, f"{part}_BN") for part in parts), ("Conv_1", "Conv_1_bn")]
    return MobileNetV2ForImageClassification(config), names


def inception() -> tuple[nn.Module, list[tuple[str, str]]]:
    """An empty Inception v3 of timm, and the names of its convolutions and normalisations in their order."""
    import timm

    model = timm.create_model("inception_v3", num_classes=2)
    return model, [(f"conv2d_{number}", f"batch_normalization_{number}") for number in range(1, 95)]


@torch.no_grad()
def fill(model: nn.Module, names: list[tuple[str, str]], arrays: dict[str, np.ndarray]) -> None:
    """Copy the arrays into the model's convolutions and normalisations."""

    def copy(to: torch.Tensor | None, values: np.ndarray) -> None:
        assert to is not None
        assert to.shape == values.shape, f"{to.shape}, {values.shape}"
        to.copy_(torch.from_numpy(values))

    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for convolution, norm, (kernel, known) in zip(convolutions, norms, names, strict=True):
        if f"{kernel}/kernel" in arrays:
            copy(convolution.weight, arrays[f"{kernel}/kernel"].transpose(3, 2, 0, 1))
        else:
            copy(convolution.weight, arrays[f"{kernel}/depthwise_kernel"].transpose(2, 3, 0, 1))
        if f"{known}/gamma" in arrays:
            copy(norm.weight, arrays[f"{known}/gamma"])
        copy(norm.bias, arrays[f"{known}/beta"])
        copy(norm.running_mean, arrays[f"{known}/moving_mean"])
        copy(norm.running_var, arrays[f"{known}/moving_variance"])
    torch.manual_seed(0)
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    last.reset_parameters()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path)
    parser.add_argument("name", choices=SIDES)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    side = SIDES[args.name]
    model, names = mobilenet() if args.name == "mobilenet_v2" else inception()
    fill(model.eval(), names, read_weights(args.models / args.name))
    said: dict[str, Any] = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3, "resample": 2}
    if args.name == "mobilenet_v2":
        model.save_pretrained(args.out)
        said |= {"image_processor_type": "ViTImageProcessor", "size": {"height": side, "width": side}}
        said |= {"do_rescale": True, "do_normalize": True}
        (args.out / "preprocessor_config.json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    else:
        from timm.models import save_for_hf

        cfg = {"input_size": (3, side, side), "mean": (0.0,) * 3, "std": (1.0,) * 3, "interpolation": "bilinear"}
        model.pretrained_cfg.update(cfg)
        save_for_hf(model, args.out, model_config={"pretrained_cfg": cfg}, safe_serialization=True)
    (args.out / "README.md").write_text("---\nlicense: mit\n---\nA network of NSFWJS.\n", encoding="utf-8")


if __name__ == "__main__":
    main()
