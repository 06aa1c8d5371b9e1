"""Verdicts of the audit on sets of images whose answer is known, as anybody's folders of labelled images.

    python benchmarks/verdicts.py UCMERCED/train AID/train EUROSAT/train --work W --out verdicts.json
    python benchmarks/verdicts.py EUROSAT/train --kinds place --places EUROSAT_GEOGRAPHIC --work W --out places.json

Each draw splits a random part of the data: T, a hold-out H, and fresh images of the same kind. Audited are

    fresh         the fresh images: no FAIL is right
    copies        as many images of T: FAIL is right, as for the next three
    blurred       copies, blurred by a Gaussian of 1 px
    noisy         copies, with noise of 5 % of the range
    over-fitted   samples of a denoiser that has memorised about 50 latents of T, decoded by the shipped base
    scale         the fresh images, beside a hold-out of which the middle is enlarged: WARN is right
    brightness    the fresh images, beside the brightest images as hold-out: WARN is right
    place         with --places: T and fresh images of its train.txt, H of its val.txt: WARN is right

Only training parts of the data are read, without near duplicates: a fresh one would show what an image of T shows.
Finished audits in --work, which is private, are not repeated. Audits of one draw share the students of H and of the
copies of T, so that only the first one's seconds are those of an audit.
"""

import argparse
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from holdouts import enlarged, held_out
from PIL import Image, ImageFilter
from result_file import tell
from torch import nn

from dpd_eval.audit import student_attack
from dpd_eval.audit.audit import audit
from dpd_eval.audit.overfitted import IMAGES, Memory, as_denoise, memorise
from dpd_eval.students.recipe import Recipe
from dpd_runtime.annotations import Images
from dpd_runtime.sampling.sample import sample
from dpd_runtime.sampling.sampler import BlockGuidance
from dpd_runtime.sampling.solvers import SOLVERS
from dpd_train.bases.base import decode_in_parts, load_base
from dpd_train.bases.latents import encode
from dpd_train.compute.device import hardware
from dpd_train.images import SceneSet, read_scenes
from dpd_train.images.structure import near_duplicates

KINDS = {
    "fresh": ("PASS", "WARN"),
    "copies": ("FAIL",),
    "blurred": ("FAIL",),
    "noisy": ("FAIL",),
    "over-fitted": ("FAIL",),
    "scale": ("WARN",),
    "brightness": ("WARN",),
    "place": ("WARN",),
}
MOST = 200  # images of a class in all three
NOISE = 0.05 * 255
SCALE = 0.7
STEPS, MEMORY_STEPS = 20, 2000  # of the over-fitted sampler and of its training


@dataclass(frozen=True)
class Split:
    """T, H and fresh images."""

    train: SceneSet
    held: SceneSet
    fresh: SceneSet


def pieces(
    scenes: SceneSet, rng: np.random.Generator, sizes: Callable[[int], Sequence[int]], most: int = MOST
) -> list[SceneSet]:
    """Random parts. sizes: images of a class, at most `most` → images of that class in each part."""
    orders = [rng.permutation(np.flatnonzero(scenes.labels == c))[:most] for c in range(len(scenes.classes))]
    cut = [np.split(order, np.cumsum(sizes(len(order)))) for order in orders]
    return [scenes.only(np.concatenate(rows)) for rows in zip(*cut, strict=True)][:-1]


def drawn(scenes: SceneSet, draw: int) -> Split:
    """A half for T, a quarter for H, and the rest."""

    def sizes(count: int) -> tuple[int, ...]:
        train, held = round(0.5 * count), round(0.25 * count)
        return train, held, count - train - held

    return Split(*pieces(scenes, np.random.default_rng(draw), sizes))


def apart(here: SceneSet, there: SceneSet, draw: int) -> Split:
    """T and fresh images from one side, H from the other."""
    rng = np.random.default_rng(draw)
    train, fresh = pieces(here, rng, lambda count: (count - count // 3, count // 3), MOST * 3 // 4)
    (held,) = pieces(there, rng, lambda count: (count,), MOST // 4)
    return Split(train, held, fresh)


def by_place(scenes: SceneSet, lists: Path, draw: int) -> Split:
    """T and fresh images on one side of a longitude, H on another."""
    west, east = ({Path(line).name for line in (lists / name).read_text().split()} for name in ("train.txt", "val.txt"))
    names = [Path(path).name for path in scenes.paths]
    here, there = (scenes.only(np.flatnonzero([name in side for name in names])) for side in (west, east))
    return apart(here, there, draw)


def by_brightness(scenes: SceneSet, draw: int) -> Split:
    """H from the brightest quarter of each class."""
    bright = held_out(scenes.labels, scenes.images.mean(axis=(1, 2, 3)), 0.25)
    return apart(scenes.only(np.setdiff1d(np.arange(len(scenes.labels)), bright)), scenes.only(bright), draw)


def each_changed(images: Images, kind: str, rng: np.random.Generator) -> Images:
    if kind == "blurred":
        return np.stack([np.asarray(Image.fromarray(i).filter(ImageFilter.GaussianBlur(1))) for i in images])
    if kind == "noisy":
        return (images + rng.normal(0, NOISE, images.shape)).round().clip(0, 255).astype(np.uint8)
    return images


def copies(split: Split, kind: str, draw: int) -> SceneSet:
    """As many images of T in each class as there are fresh ones, changed as `kind` says."""
    rng, counts = np.random.default_rng([draw, 1]), np.bincount(split.fresh.labels)
    rows = [rng.permutation(np.flatnonzero(split.train.labels == c))[:n] for c, n in enumerate(counts)]
    chosen = split.train.only(np.concatenate(rows))
    return replace(chosen, images=each_changed(chosen.images, kind, rng))


def over_fitted(split: Split, draw: int) -> SceneSet:
    """Samples of a denoiser that has memorised about IMAGES images of T, with the labels of the nearest ones."""
    base, classes = load_base("nano"), len(split.train.classes)
    each = max(2, IMAGES // classes)
    known = split.train.only(np.concatenate([np.flatnonzero(split.train.labels == c)[:each] for c in range(classes)]))
    scale = float(base.vae.config.scaling_factor)
    latents = scale * encode(base.vae, known.images)
    schedule = replace(base.schedule, prediction_type="sample")
    torch.manual_seed(draw)
    network = Memory((latents.shape[1], latents.shape[2], latents.shape[3]))
    memorise(network, latents, schedule.alphas_cumprod, steps=MEMORY_STEPS)
    denoise = as_denoise(network, schedule)
    make_steps, advance = SOLVERS["ddim"]
    noise = np.random.default_rng([draw, 2]).normal(size=(len(split.fresh.labels), *latents.shape[1:]))
    prompts = np.zeros((len(noise), 1, 1), np.float32)
    found = sample(
        denoise, noise.astype(np.float32), prompts, prompts[0], None, make_steps(schedule, STEPS), advance, "sample",
        BlockGuidance(),
    )  # fmt: skip
    nearest = torch.cdist(torch.from_numpy(found).flatten(1), latents.flatten(1)).argmin(dim=1).numpy()
    return replace(known, images=decode_in_parts(base, found), labels=known.labels[nearest], paths=(), hashes=())


def folder_of(scenes: SceneSet, place: Path) -> Path:
    """Write one folder of PNG files for each class."""
    shutil.rmtree(place, ignore_errors=True)
    for number, (image, label) in enumerate(zip(scenes.images, scenes.labels, strict=True)):
        (place / scenes.classes[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / scenes.classes[label] / f"{number:05d}.png")
    return place


def case(scenes: SceneSet, kind: str, draw: int, places: Path | None) -> tuple[Split, SceneSet]:
    """The split of a draw, and the set that is audited beside it."""
    if kind == "place":
        assert places is not None
        split = by_place(scenes, places, draw)
        return split, split.fresh
    if kind == "brightness":
        split = by_brightness(scenes, draw)
        return split, split.fresh
    split = drawn(scenes, draw)
    if kind == "scale":
        return replace(split, held=replace(split.held, images=enlarged(split.held.images, SCALE))), split.fresh
    if kind == "over-fitted":
        return split, over_fitted(split, draw)
    return split, split.fresh if kind == "fresh" else copies(split, kind, draw)


def audited(scenes: SceneSet, kind: str, draw: int, places: Path | None, work: Path) -> dict[str, Any]:
    split, judged = case(scenes, kind, draw, places)
    parts = {"set": judged, "T": split.train, "H": split.held}
    folders = {name: folder_of(part, work / "images" / name) for name, part in parts.items()}
    result = audit(folders["set"], train=folders["T"], holdout=folders["H"], cache=work / "cache")
    return {
        "verdict": result.verdict,
        "right": result.verdict in KINDS[kind],
        "failed": [test.name for test in result.tests if test.verdict == "FAIL"],
        "wrong_controls": [control.name for control in result.controls if control.wrong],
        "values": {test.name: test.value for test in result.tests},
        "values_of_controls": {control.name: control.value for control in result.controls},
        "first_reason": next(iter(result.reasons), ""),
        "images": {name: len(part.labels) for name, part in parts.items()},
        "seconds": round(result.seconds),
    }


def remember_students() -> dict[Any, list[nn.Module]]:
    """Let audits train students of the same images once; return what is remembered."""
    known, train = dict[Any, list[nn.Module]](), student_attack.students_of

    def students(part: student_attack.LabelledImages, classes: int, recipe: Recipe) -> list[nn.Module]:
        key = part.images.tobytes(), part.labels.tobytes(), recipe
        if key not in known:
            known[key] = train(part, classes, recipe)
        return known[key]

    student_attack.students_of = students  # type: ignore[assignment]
    return known


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--kinds", nargs="+", choices=[*KINDS], default=[kind for kind in KINDS if kind != "place"])
    parser.add_argument("--places", type=Path, help="folder of train.txt and val.txt, for the kind place")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True, mode=0o700)
    found: dict[str, Any] = {"resolution": args.resolution, "hardware": hardware(torch.device("cpu"))}
    students = remember_students()
    for draw, data in product(range(args.draws), args.data):
        name = data.resolve().parts[-2]
        scenes = read_scenes(data, part="all", resolution=args.resolution)
        near = near_duplicates(scenes.images, scenes.hashes)
        scenes = scenes.only(np.setdiff1d(np.arange(len(scenes.labels)), list(near)))
        students.clear()
        for kind in args.kinds:
            place = args.work / f"{name}-{args.resolution}-{kind}-{draw}.json"
            if not place.exists():
                place.write_text(json.dumps(audited(scenes, kind, draw, args.places, args.work), indent=1))
            one = json.loads(place.read_text())
            found.setdefault(name, {}).setdefault(kind, []).append(one)
            print(name, kind, draw, one["verdict"], "right" if one["right"] else "WRONG", one["seconds"], flush=True)
    tell(found, args.out)


if __name__ == "__main__":
    main()
