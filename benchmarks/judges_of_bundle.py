"""Write the two classifiers of a bundle as a run keeps them.

For `ablation.py --judges` and `dpd train --resume` on a machine that does not have the run: training the shipped
teacher again takes twenty minutes.

    dpd train DATA --val-per-class 100 --steps 0 --teacher-steps 4000 --out run --max-minutes 0
    python benchmarks/judges_of_bundle.py dpd_runtime/data/eurosat64.dpd run
    dpd train DATA --val-per-class 100 --steps 0 --teacher-steps 4000 --out run --resume

In the graphs the norms are folded into the convolutions, so the norms are written as identities. The result is compared
with ONNX Runtime on random inputs.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from dpd_runtime import load_bundle
from dpd_runtime.bundle.bundle import Bundle
from dpd_runtime.engines.engine import Provider
from dpd_train.classifiers.network import ResNet, latent_classifier_shape, save_classifier, teacher_shape

TOLERANCE = 1e-4


def unfolded(network: ResNet, graph: bytes) -> ResNet:
    """`network` with the weights of `graph`, which was exported from a network of the same shape."""
    tensors = {
        entry.name.removesuffix("_fp16"): torch.tensor(numpy_helper.to_array(entry)).float()
        for entry in onnx.load_from_string(graph).graph.initializer
    }
    state = network.state_dict()
    for name, value in state.items():
        if name in tensors:
            state[name] = tensors[name]
            continue
        norm, part = name.rsplit(".", 1)
        convolution = norm.replace("norm", "conv") if "norm" in norm else norm[:-1] + "0"
        if part == "bias":
            state[name] = tensors[f"{convolution}.weight_bias"]
        elif part == "running_var":
            state[name] = torch.full_like(value, 1 - 1e-5)  # the norm adds ε = 1e-5
        elif part in ("weight", "running_mean"):
            state[name] = torch.full_like(value, float(part == "weight"))
    network.load_state_dict(state)
    return network.eval()


@torch.no_grad()
def distance(network: ResNet, bundle: Bundle, graph: str, name: str, shape: tuple[int, ...]) -> float:
    """Largest difference of logits on eight random inputs."""
    inputs = np.random.default_rng(0).standard_normal((8, *shape), np.float32)
    found = bundle.engine(graph, Provider("cpu", "asked for"), threads=1).run(**{name: inputs})
    return float(np.abs(found - network(torch.from_numpy(inputs)).numpy()).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("run", type=Path)
    args = parser.parse_args()
    bundle = load_bundle(args.bundle)
    classes, (height, width, _), latent = len(bundle.classes), bundle.manifest.image_shape, bundle.manifest.latent_shape
    shapes = {
        "classifier": (teacher_shape(classes), "images", (3, height, width)),
        "latent_classifier": (latent_classifier_shape(classes, latent[0]), "latents", latent),
    }
    for part, (shape, name, size) in shapes.items():
        graph = f"{part}/model.onnx"
        network = unfolded(ResNet(shape), bundle.files[graph])
        found = distance(network, bundle, graph, name, size)
        if found > TOLERANCE:
            sys.exit(f"{part}: its logits differ from the graph's by {found:.1e}")
        save_classifier(network, args.run / part)
        print(f"{part}: equals the graph within {found:.1e}")


if __name__ == "__main__":
    main()
