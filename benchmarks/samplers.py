"""How should a base sample images that are worth training on? Sets of several samplers, judged by students.

    python benchmarks/samplers.py EUROSAT/train --base THIRD --arms today,plain --work W --out samplers.json
    python benchmarks/samplers.py EUROSAT/train --base THIRD --arms plain --odd --work W --out odd.json

Students see the first 50 or 200 images of each class for 1,000 steps (`--ipc`, `--steps`). Choices are made on the
validation images of even number by file name, figures come from the others (`--odd`). The arms change one thing after
another:

    bundle      the embedded bundle, whatever --base: fifty decoded codes, then re-noised ones
    today       as the embedded bundle samples: guidance, a pull towards the prototype, the best of three candidates
    first       today, but the first candidate
    unpulled    first, without the pull
    unguided    unpulled, without guidance
    plain       unguided, without a gain on the mean of the noise: nothing but the model
    plain30     plain, with twice the steps
    even15      plain, with timesteps at even distances
    plain best  plain, the best of three candidates
    guided      plain, with guidance of 1.25 at all steps
    codes 0.2   plain, begun at the fifty codes of each class with noise of strength 0.2, as the embedded bundle does
    codes 0.4, codes 0.6   the same with more noise, so that more of the image is the model's
    codes 0.6 best         codes 0.6, the best of three candidates
    set plain, set 0.6, set 0.6 best
                           the fifty codes decoded, then plain, codes 0.6, or codes 0.6 best
    real                   random real images, decoded from their latents
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ceiling import reconstructed
from pilots import image_metrics, named_right, sampled, student_accuracies
from result_file import tell
from scene_lists import read_parts

from dpd_eval.selection.methods import random_subset
from dpd_eval.students.recipe import Recipe, load_recipe
from dpd_runtime.bundle.bundle import load_bundle
from dpd_runtime.generation.generate import generate
from dpd_runtime.sampling.sampler import DECODED, BlockGuidance
from dpd_train.bases.base import load_base
from dpd_train.images import SceneSet

FREE = (BlockGuidance(),)
UNPULLED = (BlockGuidance(guidance_scale=1.25, guidance_from=0.26),)
PLAIN: dict[str, Any] = {"candidates": 1, "guidance": FREE, "mean_noise_gain": 1.0}
NOISED = BlockGuidance(prototype_scale=1.0, prototype_until=0.4)
ARMS: dict[str, dict[str, Any]] = {
    "today": {},
    "first": {"candidates": 1},
    "unpulled": {"candidates": 1, "guidance": UNPULLED},
    "unguided": {"candidates": 1, "guidance": FREE},
    "plain": PLAIN,
    "plain30": PLAIN | {"steps": 30},
    "even15": PLAIN | {"timestep_power": 1.0},
    "plain best": PLAIN | {"candidates": 3},
    "guided": PLAIN | {"guidance": (BlockGuidance(guidance_scale=1.25),)},
    "codes 0.2": PLAIN | {"guidance": (BlockGuidance(prototype_scale=1.0, prototype_until=0.8),)},
    "codes 0.4": PLAIN | {"guidance": (BlockGuidance(prototype_scale=1.0, prototype_until=0.6),)},
    "codes 0.6": PLAIN | {"guidance": (NOISED,)},
    "codes 0.6 best": PLAIN | {"guidance": (NOISED,), "candidates": 3},
    "set plain": PLAIN | {"guidance": (DECODED, BlockGuidance(from_block=5))},
    "set 0.6": PLAIN | {"guidance": (DECODED, replace(NOISED, from_block=5))},
    "set 0.6 best": PLAIN | {"guidance": (DECODED, replace(NOISED, from_block=5)), "candidates": 3},
}


def kept(arm: str, base: Path, ipc: int, train: SceneSet, work: Path) -> SceneSet:
    """So many images of each class of an arm, made once."""
    path = work / f"{base.name} {arm} {ipc}.npy"
    bundle = load_bundle()
    names, labels = tuple(scene.name for scene in bundle.classes), np.repeat(np.arange(len(bundle.classes)), ipc)
    if not path.exists():
        if arm == "bundle":
            images = np.stack([image.pixels for image in generate(bundle, ipc=ipc, provider="cpu")])
        elif arm == "real":
            rows = random_subset(train.labels, ipc, seed=0)
            images = reconstructed(load_base(str(base)).vae, train, rows).images[rows]
        else:
            images = sampled(load_base(str(base)), ipc, **ARMS[arm]).images
        np.save(path, images)
    return SceneSet(names, np.load(path), labels, (), ())


def judged(
    arm: str, images: SceneSet, sizes: list[int], recipe: Recipe, train: SceneSet, held: SceneSet
) -> dict[str, Any]:
    """Students over the first images of each class, and metrics of them all."""
    few = images.only(np.flatnonzero(np.arange(len(images.labels)) % max(sizes) < min(sizes)))
    return {
        "students": {str(ipc): student_accuracies(arm, ipc, images, held, recipe) for ipc in sizes},
        "named right by the teacher": named_right(few),
        **image_metrics(arm, max(sizes), images, train, held),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--base", type=Path, default=Path("dpd_train/data/nano"))
    parser.add_argument("--arms", default=",".join(["bundle", *ARMS]))
    parser.add_argument("--ipc", default="50,200", help="images of each class, separated by commas")
    parser.add_argument("--steps", type=int, default=1000, help="of a student")
    parser.add_argument("--odd", action="store_true", help="judge by the images of odd number")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    train, held = read_parts(args.data, 100)
    held = held.only(np.arange(1 if args.odd else 0, len(held.images), 2))
    found, sizes = {}, [int(size) for size in args.ipc.split(",")]
    recipe = replace(load_recipe("quick"), steps=args.steps)
    for arm in args.arms.split(","):
        found[arm] = judged(arm, kept(arm, args.base, max(sizes), train, args.work), sizes, recipe, train, held)
        print(arm, json.dumps(found[arm]), flush=True)
    tell({"base": args.base.name, "steps": args.steps, "half": "odd" if args.odd else "even", "arms": found}, args.out)


if __name__ == "__main__":
    main()
