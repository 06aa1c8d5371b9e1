"""What a student learns from codes of seven classes and real images of three others, as at many sites (a pilot).

    python own_classes.py EUROSAT/train --way labels --work W --out results.jsonl

Fifty images a class; the seed chooses the three. All ways use the same strong views and as many steps. Ways:

codes     all ten classes from codes, by their labels: what the seven reach without real images beside
real      all ten from real images, by their labels
labels    seven from codes and three from real images, by their labels
taught    as `labels`, and a teacher of the seven answers the codes
freed     as `taught`; an answer about the seven says nothing of the student's three other outputs
coded     as `labels`, and the real images are encoded and decoded by the base's VAE, as the codes' images were
coded-taught    both
after     the codes by their labels first; then half as many steps on all images again

The bundle's teacher answers for the seven classes alone, so it knows no more than one that never saw the others. Tested
on the validation part's even half, always among ten classes. A line of JSON for each run, made once.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pilot import images_of, is_known, opened_parts, teacher_in_torch, tell_line
from torch.nn import functional as F

from dpd_eval.recipe import load_recipe
from dpd_eval.students import (
    TEMPERATURE,
    Criterion,
    Lesson,
    View,
    build_student,
    labelled_lesson,
    predict,
    taught_lesson,
    train_on,
)
from dpd_runtime import load_bundle
from dpd_runtime.annotations import Images
from dpd_train.bases import decode_in_parts, encode, load_base

IPC, OWN = 50, 3


def coded(images: Images) -> Images:
    """Images as the base's VAE gives them back."""
    vae = (base := load_base("nano")).vae
    return decode_in_parts(base, (encode(vae, images) * vae.config.scaling_factor).numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--way", required=True)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--student", default="convnet")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    bundle = load_bundle(args.bundle)
    asked: dict[str, Any] = {"way": args.way, "student": args.student, "steps": args.steps, "seed": args.seed}
    asked |= {"bundle": bundle.hash}
    if is_known(args.out, asked):
        return
    train, held = opened_parts(args.data)
    classes = len(train.classes)
    own = np.random.default_rng(args.seed).permutation(classes)[:OWN]
    seven = np.setdiff1d(np.arange(classes), own)
    recipe = replace(load_recipe("taught"), steps=args.steps)
    recipe = replace(recipe, steps=2 * args.steps // 3) if args.way == "after" else recipe

    of_seven = teacher_in_torch(bundle, [train.classes[label] for label in seven])

    def answers(views: torch.Tensor) -> torch.Tensor:
        found = torch.full((len(views), classes), -torch.inf)
        found[:, seven] = of_seven(views)
        return found

    def freed(view: View) -> Criterion:
        wanted = (of_seven(view.x) / TEMPERATURE).softmax(1)
        return lambda logits: TEMPERATURE**2 * F.cross_entropy(logits[:, seven] / TEMPERATURE, wanted)

    made, made_labels = images_of("codes", train, args.work, args.data, args.seed, answers)
    real, real_labels = images_of(f"real:{IPC}", train, args.work, args.data, args.seed, answers)
    theirs, mine = ~np.isin(made_labels, own), np.isin(real_labels, own)
    images, labels = made[theirs], made_labels[theirs]
    own_images, own_labels = real[mine], real_labels[mine]
    if "coded" in args.way:
        own_images = coded(own_images)
    together = (images, own_images), np.concatenate([labels, own_labels])
    began, smoothing = time.process_time(), recipe.label_smoothing
    lessons = [labelled_lesson(*together, smoothing)]
    if args.way == "codes":
        lessons = [labelled_lesson((made,), made_labels, smoothing)]
    elif args.way == "real":
        lessons = [labelled_lesson((real,), real_labels, smoothing)]
    elif args.way in ("taught", "coded-taught"):
        lessons = [
            taught_lesson((images,), answers, TEMPERATURE),
            labelled_lesson((own_images,), own_labels, smoothing),
        ]
    elif args.way == "freed":
        lessons = [Lesson((images,), freed), labelled_lesson((own_images,), own_labels, smoothing)]
    elif args.way == "after":
        lessons = [labelled_lesson((images,), labels, smoothing)]

    def tell(step: int, steps: int) -> None:
        if step % 1000 == 0:
            print(f"{args.way}: step {step} of {steps}, {time.process_time() - began:.0f} s", flush=True)

    model = train_on(build_student(args.student, classes, args.seed), lessons, recipe, args.seed, tell)
    if args.way == "after":
        short = replace(recipe, steps=args.steps - recipe.steps, peak_rate=recipe.peak_rate / 3)
        model = train_on(model, [labelled_lesson(*together, smoothing)], short, args.seed, tell)
    said, truth = predict(model, held.images, "fp32"), held.labels
    recalls = np.array([(said[truth == label] == label).mean() for label in range(classes)])
    taken = np.isin(said[np.isin(truth, seven)], own).mean()
    found = {
        "own": [train.classes[label] for label in own],
        "seven": recalls[seven].mean(),
        "three": recalls[own].mean(),
    }
    found |= {"of the seven called one of the three": taken, "core_seconds": time.process_time() - began}
    found = {name: round(float(value), 4) if name != "own" else value for name, value in found.items()}
    tell_line(args.out, asked | found)


if __name__ == "__main__":
    main()
