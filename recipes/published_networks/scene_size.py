"""What reducing scenes costs a site that builds on a published network: linear probes on real images of three sizes.

    python scene_size.py UCMERCED/train --judges W/lite0,nsfw --work W --out ../results/scene_size.json

Ten training images of each class, random subsets 0 to 9, are judged on the validation part (the last ten names of each
class); beside them all training images, 40 of each class. No image is distilled: this is what the size alone costs.
Images are reduced from 256 px by the reader that `dpd train` uses. The networks see 224 px: each image is brought to it
bilinearly, as `dpd fit --backbone` does (`bilinear`), or by Pillow's bicubic resize, which also averages where it
reduces (`bicubic`).

256, 128, 64    training and test images of that side
128>256, 64>256 training images of that side, test images as they are: a site that classifies its scenes at full size
"""

import argparse
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from judge_decoders import IPC, SIDE, probe, seen_by
from PIL import Image
from result_file import tell

from dpd_eval.selection import random_subset
from dpd_runtime.annotations import Images
from dpd_train.compute import hardware
from dpd_train.reading import HeldOut
from dpd_train.scene_set import SceneSet
from dpd_train.scenes import read_scenes

ARMS = {"256": (256, 256), "128": (128, 128), "64": (64, 64), "128>256": (128, 256), "64>256": (64, 256)}
SUBSETS, HELD = 10, 10


def bicubic(images: Images) -> Images:
    """Images [n, H, W, 3] at the side that the networks see."""
    return np.stack([np.asarray(Image.fromarray(x).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for x in images])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--judges", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    held_out = HeldOut(val_per_class=HELD, split="names")

    def part(name: Any, side: int) -> SceneSet:
        return read_scenes(args.data, part=name, resolution=side, held_out=held_out)

    train, held = ({side: part(name, side) for side in (256, 128, 64)} for name in ("train", "val"))
    labels = train[256].labels
    subsets = [random_subset(labels, IPC, seed) for seed in range(SUBSETS)]
    versions = {name: version(name) for name in ("torch", "transformers", "scikit-learn", "onnxruntime", "pillow")}
    result: dict[str, Any] = {
        "hardware": hardware(torch.device("cpu")),
        "versions": versions,
        "classes": len(train[256].classes),
        "per_class": IPC,
        "tests": len(held[256].labels),
        "judges": {},
    }
    resizes = {"bilinear": lambda images: images, "bicubic": bicubic}
    for judge, (resize, show) in product(args.judges.split(","), resizes.items()):
        name, features = Path(judge).name, dict[tuple[str, int], Any]()
        for side in (256, 128, 64):
            for which, images in (("train", train[side].images), ("val", held[side].images)):
                path = args.work / f"scenes-{name}-{resize}-{which}-{side}.npy"
                if not path.exists():
                    np.save(path, seen_by(judge, show(images)))
                features[which, side] = np.load(path)
        found: dict[str, Any] = {}
        for arm, (taught, tested) in ARMS.items():
            accuracies = [
                probe(features["train", taught][rows], labels[rows], [features["val", tested]], held[tested].labels)[0]
                for rows in subsets
            ]
            found[arm] = {"accuracy": [round(a, 4) for a in accuracies], "mean": round(float(np.mean(accuracies)), 4)}
            lost = np.array(found["256"]["accuracy"]) - found[arm]["accuracy"]
            found[arm]["points lost"] = round(100 * float(lost.mean()), 2)
            found[arm]["sd of them"] = round(100 * float(lost.std(ddof=1)), 2)
            [of_all] = probe(features["train", taught], labels, [features["val", tested]], held[tested].labels)
            found[arm]["all training images"] = round(of_all, 4)
            print(name, resize, arm, found[arm], flush=True)
        result["judges"].setdefault(name, {})[resize] = found
        tell(result, args.out)


if __name__ == "__main__":
    main()
