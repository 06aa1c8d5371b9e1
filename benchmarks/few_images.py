"""How many images does a class need? Codes matched to few images: what they are worth, and what they give away.

    python benchmarks/few_images.py AID/train --numbers 22,40,60 --arms own,public --work W --out few.json

Of each class N random images are T; all others are unseen. They judge the students and are the other side of the
membership score. The arms:

    own        watchers as `dpd train` trains them, on T alone
    public     the same trainings on T and on drawn scenes and the images of the embedded bundle, which are further
               classes, half of each batch; the statistics are T's

Random real images of T, as many as codes, are the yardstick, with the same student seeds. Steps of the decoder and of
the denoiser are left out: both are the shipped base's. T is new in each draw, and so is the matching.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from result_file import tell
from verdicts import pieces

from dpd_eval.audit.membership import area_under_curve
from dpd_eval.audit.network_scores import prototype_score
from dpd_eval.comparison.plan import Training, run_plan
from dpd_eval.selection.methods import random_subset
from dpd_eval.statistics import overall_accuracy, paired_difference
from dpd_eval.students.cache import default_folder
from dpd_eval.students.recipe import load_recipe
from dpd_runtime import generate, load_bundle
from dpd_train.bases.base import Base, decode_in_parts, frozen_decoder, load_base
from dpd_train.bases.latents import encode_cached
from dpd_train.captions.attributes import caption
from dpd_train.captions.captions import embed
from dpd_train.classifiers.network import latent_classifier_shape
from dpd_train.classifiers.pool import train_pool
from dpd_train.classifiers.training import ClassifierTraining, Labelled, labelled, train_classifier
from dpd_train.compute.device import hardware
from dpd_train.drawn_scenes import CLASSES as DRAWN
from dpd_train.drawn_scenes import numbered_scene
from dpd_train.images import SceneSet, read_scenes, to_float
from dpd_train.prototypes.matching import (
    Matching,
    Watcher,
    features_of,
    load_watchers,
    match_codes,
    measure,
    seeing,
    starting_codes,
    view_seed,
    with_logits,
)
from dpd_train.prototypes.matching.watchers import NAME, watcher_plans

SIDE, PAIRS, DRAWN_EACH, BUNDLE_IPC = 64, 5, 110, 50
CPU = torch.device("cpu")
UNSEEN = 60  # images of each class that judge, at most


@dataclass(frozen=True)
class Draw:
    """T, the validation part that chooses the watchers' weights, and unseen images."""

    train: SceneSet
    validation: SceneSet
    unseen: SceneSet
    number: int
    folder: Path
    base: Base

    @cached_property
    def latents(self) -> tuple[torch.Tensor, ...]:
        return tuple(
            encode_cached(self.base.vae, s.images, s.hashes, self.folder)
            for s in (self.train, self.validation, self.unseen)
        )


def draw(scenes: SceneSet, count: int, number: int, work: Path) -> Draw:
    held = max(1, count // 10)
    parts = pieces(
        scenes, np.random.default_rng([count, number]), lambda _: (count - held, held, UNSEEN), count + UNSEEN
    )
    folder = work / f"{count}-{number}"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Draw(*parts, number, folder, load_base("nano"))


def public_images() -> Labelled:
    """Drawn scenes and the embedded bundle's images in [-1, 1], with labels from 0 on."""
    drawn = [numbered_scene(label, i, 0, SIDE) for label in range(len(DRAWN)) for i in range(DRAWN_EACH)]
    made = list(generate(load_bundle(), ipc=BUNDLE_IPC, seed=0, provider="cpu"))
    images = np.stack([*drawn, *(image.pixels for image in made)])
    labels = [*np.repeat(np.arange(len(DRAWN)), DRAWN_EACH), *(len(DRAWN) + image.label for image in made)]
    return to_float(torch.from_numpy(images)), torch.from_numpy(np.array(labels, np.int64))


def watchers_of(arm: str, of: Draw) -> list[Watcher]:
    own, held, classes = labelled(of.train), labelled(of.validation), len(of.train.classes)
    data, weights, known = own, None, classes
    if arm == "public":
        images, labels = public_images()
        data = torch.cat([own[0], images]), torch.cat([own[1], classes + labels])
        weights = torch.cat([torch.full((len(own[1]),), 1 / len(own[1])), torch.full((len(labels),), 1 / len(labels))])
        known = classes + int(labels.max()) + 1
    folder = of.folder / arm
    folder.mkdir(exist_ok=True)
    train_pool(folder, NAME, watcher_plans(known, of.number), data, held, lambda done, total: None, weights=weights)
    networks = zip(load_watchers(folder, known), with_logits(known), strict=True)
    return [
        Watcher(
            seeing(network, logits=logits), measure(features_of(network), *own, classes, view_seed(of.number, i), CPU)
        )
        for i, (network, logits) in enumerate(networks)
    ]


def start_of(of: Draw, codes: int) -> torch.Tensor:
    """Sampled images of the shipped base, chosen by a classifier of T's latents."""
    path = of.folder / f"start{codes}.npy"
    if not path.exists():
        train, validation = (
            (latents, torch.from_numpy(scenes.labels))
            for latents, scenes in zip(of.latents[:2], (of.train, of.validation), strict=True)
        )
        shape = latent_classifier_shape(len(of.train.classes), train[0].shape[1])
        judge = train_classifier(*train, validation, shape, ClassifierTraining(steps=800, seed=of.number)).model
        texts = [caption(name, ()) for name in of.train.classes]
        prompts = embed(of.base.text_encoder, of.base.tokenizer, [*texts, ""])
        np.save(path, starting_codes(of.base, judge, of.train.classes, prompts, codes, of.number).numpy())
    return torch.from_numpy(np.load(path))


def codes_of(arm: str, of: Draw, codes: int, steps: int) -> np.ndarray:
    """[classes, codes, C, h, w]."""
    path = of.folder / f"{arm}-{codes}-{steps}.npy"
    if not path.exists():
        found = match_codes(
            start_of(of, codes),
            frozen_decoder(of.base),
            watchers_of(arm, of),
            Matching(steps=steps, seed=of.number),
            state=of.folder / f"{arm}-{codes}-{steps}.safetensors",
        )
        np.save(path, found.numpy())
    return np.asarray(np.load(path))


def judged(arm: str, of: Draw, codes: int, steps: int) -> dict[str, Any]:
    """Accuracies of students of the codes and of random real images, and the membership score of the codes."""
    found, classes = codes_of(arm, of, codes, steps), of.train.classes
    flat, labels = found.reshape(-1, *found.shape[2:]), np.repeat(np.arange(len(classes)), codes)
    decoded = SceneSet(classes, decode_in_parts(of.base, flat), labels, (), ())
    plan = []
    for seed in range(PAIRS):
        plan.append(Training(arm, "convnet", codes, seed, ((decoded, np.arange(len(labels))),)))
        plan.append(
            Training("random", "convnet", codes, seed, ((of.train, random_subset(of.train.labels, codes, seed)),))
        )
    outcomes, _ = run_plan(plan, of.unseen, load_recipe("quick"), 1, default_folder(), lambda *_: None)
    accuracy: dict[str, list[float]] = {arm: [], "random": []}
    for training, outcome in zip(plan, outcomes, strict=True):
        accuracy[training.arm].append(overall_accuracy(outcome.confusion))
    members, others = (
        prototype_score(of.latents[part].numpy(), scenes.labels, flat, labels)
        for part, scenes in ((0, of.train), (2, of.unseen))
    )
    return {
        "oa": accuracy,
        "difference": asdict(paired_difference(accuracy[arm], accuracy["random"])),
        "ratio": round(float(np.mean(accuracy[arm]) / np.mean(accuracy["random"])), 4),
        "membership of the codes, AUC": round(area_under_curve(members, others), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--numbers", default="22,40,60", help="images of a class in T")
    parser.add_argument("--arms", default="own,public")
    parser.add_argument("--codes", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--work", type=Path, required=True, help="private: holds codes and latents of real images")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    scenes = read_scenes(args.data, part="all", resolution=SIDE)
    result: dict[str, Any] = {
        "arguments": {name: str(value) for name, value in vars(args).items() if name not in ("work", "out", "data")},
        "data": "/".join(args.data.resolve().parts[-2:]),
        "hardware": hardware(CPU),
    }
    for count in map(int, args.numbers.split(",")):
        for number in range(args.draws):
            of = draw(scenes, count, number, args.work)
            for arm in args.arms.split(","):
                found = judged(arm, of, args.codes, args.steps)
                result.setdefault(str(count), {}).setdefault(arm, []).append(found)
                print(count, number, arm, json.dumps(found), flush=True)
    tell(result, args.out)


if __name__ == "__main__":
    main()
