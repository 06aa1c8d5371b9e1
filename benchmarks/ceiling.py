"""Measure how much a student loses if its real training images pass through the VAE: an upper bound for all sets.

    python benchmarks/ceiling.py ../shared/data/eurosat_rgb/train --base dpd_train/data/nano --out ceiling.json

Pair i has student seed i on random real subset i, unchanged and reconstructed; tested on validation, never on test/.
"""

import argparse
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from result_file import tell

from dpd_eval.comparison.plan import Training, run_plan
from dpd_eval.selection.methods import random_subset
from dpd_eval.statistics import overall_accuracy, paired_difference
from dpd_eval.students.cache import default_folder
from dpd_eval.students.recipe import load_recipe
from dpd_runtime.sampling.sample import to_uint8
from dpd_train.bases.latents import reconstruct, weights_hash
from dpd_train.held_out import HeldOut
from dpd_train.images import SceneSet, read_scenes, to_float
from dpd_train.vae.autoencoder import reconstruction_metrics


def reconstructed(vae: AutoencoderKL, scenes: SceneSet, rows: np.ndarray) -> SceneSet:
    """`scenes` with the images of `rows` replaced by reconstructions."""
    images = scenes.images.copy()
    images[rows] = to_uint8(reconstruct(vae, to_float(torch.from_numpy(scenes.images[rows]))).numpy())
    return replace(scenes, images=images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--val-per-class", type=int, default=100)
    parser.add_argument("--resolution", type=int)
    parser.add_argument("--ipc", type=int, default=50)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, help="of each student; default: the quick recipe's")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    vae = AutoencoderKL.from_pretrained(args.base, subfolder="vae", torch_dtype=torch.float32).eval()
    train, held = (
        read_scenes(
            args.data,
            part=part,
            resolution=args.resolution,
            held_out=HeldOut(val_per_class=args.val_per_class, split="names"),
        )
        for part in ("train", "val")
    )
    plan = []
    for seed in range(args.pairs):
        rows = random_subset(train.labels, args.ipc, seed, train.classes)
        for arm, scenes in (("real", train), ("reconstructed", reconstructed(vae, train, rows))):
            plan.append(Training(arm, "convnet", args.ipc, seed, ((scenes, rows),)))
    recipe = load_recipe("quick")
    recipe = replace(recipe, steps=args.steps or recipe.steps)
    outcomes, _ = run_plan(plan, held, recipe, args.jobs, default_folder(), lambda *_: None)
    oas = {
        arm: [overall_accuracy(o.confusion) for item, o in zip(plan, outcomes, strict=True) if item.arm == arm]
        for arm in ("real", "reconstructed")
    }
    result = {
        "vae": weights_hash(vae),
        "reconstruction": reconstruction_metrics(vae, to_float(torch.from_numpy(held.images[::2]))),
        "ipc": args.ipc,
        "steps": recipe.steps,
        "tested_on": "validation",
        "oa": oas,
        "difference": asdict(paired_difference(oas["reconstructed"], oas["real"])),
    }
    tell(result, args.out)


if __name__ == "__main__":
    main()
