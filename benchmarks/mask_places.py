"""Images with masks: what the VAE costs, and what codes are worth that begin at the mean of each place (a pilot).

    python -m dpd_neighbours.masks pack TRAIN/images TRAIN/masks --values 0,1,2 --out scenes
    dpd train scenes --bands all --stretch 0:255 --ipc 17 ... --out run
    python benchmarks/mask_places.py scenes --run run --values 0,1,2 --numbers 10 --segmenters 3 --out O

real       random real pairs
decoded    the same pairs through the run's VAE
start      Gaussian codes around the mean latents of a class at each place, and no matching

Segmenters learn from --numbers pairs and are tested on the training images that the run held out, so that nothing is
chosen by test images.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from result_file import tell

from dpd_eval.statistics import t_interval
from dpd_neighbours.masks import Masks, mask_values, mean_iou, parted
from dpd_neighbours.segmenter import segment, train_segmenter
from dpd_runtime.annotations import Images
from dpd_train.bases.base import decode_in_parts, load_base
from dpd_train.bases.latents import encode
from dpd_train.compute.device import hardware
from dpd_train.held_out import HeldOut
from dpd_train.images import read_scenes
from dpd_train.prototypes.matching import gaussian_codes
from dpd_train.reading import parse_reading

SEED = 0


def around_means(latents: torch.Tensor, labels: torch.Tensor, classes: int, count: int) -> torch.Tensor:
    """Gaussian codes [classes, count, C, h, w] whose mean is that of a class at each place."""
    means = torch.stack([latents[labels == label].mean(0) for label in range(classes)])
    return means[:, None] + gaussian_codes(latents - means[labels], labels, classes, count, SEED)


def judged(pairs: list[tuple[Images, Masks]], held: tuple[Images, Masks], count: int) -> dict[str, Any]:
    """Mean IoU in %, a segmenter for each of `pairs`."""
    scores = [
        100 * mean_iou(held[1], segment(train_segmenter(*one, count, 1000, seed), held[0]), count)
        for seed, one in enumerate(pairs)
    ]
    interval = t_interval(scores)
    return {"iou": scores, "mean": interval.mean, "low": interval.low, "high": interval.high}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--values", required=True)
    parser.add_argument("--count", type=int, default=17, help="codes of each class")
    parser.add_argument("--numbers", type=int, nargs="+", default=[10, 50])
    parser.add_argument("--segmenters", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    values, base = mask_values(args.values), load_base(str(args.run / "pipeline"))
    reading = parse_reading("all", "0:255")
    train, held = (
        read_scenes(args.scenes, part=part, resolution=64, held_out=HeldOut(), reading=reading)
        for part in ("train", "val")
    )
    labels = torch.from_numpy(train.labels)
    scale = float(base.vae.config.scaling_factor)

    latents = encode(base.vae, train.images) * scale
    codes = around_means(latents, labels, len(train.classes), args.count)
    made = parted(decode_in_parts(base, codes.transpose(0, 1).flatten(0, 1).numpy()))  # first the first of each class
    result: dict[str, Any] = {"hardware": hardware(torch.device("cpu"))}
    for number in args.numbers:
        drawn = [np.random.default_rng(seed).permutation(len(labels))[:number] for seed in range(args.segmenters)]
        arms = {
            "real": [parted(train.images[rows]) for rows in drawn],
            "decoded": [parted(decode_in_parts(base, latents[rows].numpy())) for rows in drawn],
            "start": [(made[0][:number], made[1][:number])] * args.segmenters,
        }
        for arm, pairs in arms.items():
            result.setdefault("arms", {}).setdefault(arm, {})[str(number)] = judged(
                pairs, parted(held.images), len(values)
            )
            tell(result, args.out)


if __name__ == "__main__":
    main()
