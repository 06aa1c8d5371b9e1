"""Can a denoiser that is trained on populations make sharp, varied images in one call?

    python benchmarks/generator_matching.py train EUROSAT/train --base THIRD --arms diffusion,matched --work W
    python benchmarks/generator_matching.py judge EUROSAT/train --base THIRD --around SET.npy --work W --out O.json

An image is one call of the UNet from a code of the embedded bundle with noise. Trained are the UNet's last blocks, 48
images a step; a pilot has three classes, t = 600 and 300 steps. The arms:

    around      the set of --around itself; in it the other arms replace the images of their classes (from `--from` on)
    one-call    the base as it is: a mean over what could be, without detail
    diffusion   the loss of diffusion at this t on real latents, with the same steps
    matched     features of generated images have the distribution of real ones, in two eyes a step: the distance of
                characteristic functions along random directions (Ansari et al. 2020, 1909.07425; NCFM 2502.20653), its
                estimate without the terms of an image with itself, so that small batches do not shrink the variety;
                and a share of the diffusion loss

Eyes are networks with random weights and briefly trained classifiers of real images; a network with other random
weights and students judge. Directions are random in the space of the 64 largest principal components of a feature
within classes, at variance 1.
"""

import argparse
import json
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pilots import image_metrics, named_right, student_accuracies
from result_file import tell
from safetensors.torch import load_file, save_file
from scene_lists import read_parts
from torch import nn
from torch.nn import functional as F

from dpd_eval.students.recipe import Recipe, load_recipe
from dpd_runtime.annotations import Images
from dpd_runtime.bundle.bundle import load_bundle
from dpd_runtime.sampling.schedule import add_noise, predicted_original
from dpd_train.bases.base import Base, decode_in_parts, frozen_decoder, load_base
from dpd_train.bases.latents import encode_cached
from dpd_train.captions.captions import embed as embed_texts
from dpd_train.classifiers.network import Classifier, set_learning_rate
from dpd_train.classifiers.training import ClassifierTraining, Labelled, labelled, train_classifier
from dpd_train.compute.checkpoint import step_generator
from dpd_train.images import SceneSet, to_float
from dpd_train.prototypes.matching.statistics import embed, maps_of
from dpd_train.prototypes.matching.watchers import residual_shapes

THREE = ("HerbaceousVegetation", "Highway", "River")
IMAGES, RATE = 48, 2e-4
UNTRAINED, TRAINED = 10, (40, 40, 150, 150, 400, 400)
COMPONENTS, DIRECTIONS, FREQUENCIES = 64, 128, (0.7, 1.4, 2.1)
DIFFUSION_SHARE, DISTANCE_SHARE, EYES_A_STEP = 0.2, 10.0, 2
IPC = 200


@dataclass(frozen=True)
class Material:
    data: Path
    base_name: str
    work: Path
    names: tuple[str, ...]
    timestep: int

    @cached_property
    def parts(self) -> tuple[SceneSet, SceneSet]:
        return read_parts(self.data, 100)

    @cached_property
    def base(self) -> Base:
        base = load_base(self.base_name)
        base.vae.requires_grad_(False)
        return base

    @cached_property
    def labels(self) -> list[int]:
        return [self.parts[0].classes.index(name) for name in self.names]

    @cached_property
    def codes(self) -> list[torch.Tensor]:
        """Scaled latents of each class."""
        by_name = {scene.name: scene for scene in load_bundle().classes}
        return [torch.from_numpy(by_name[name].prototypes.astype(np.float32)) for name in self.names]

    @cached_property
    def prompts(self) -> torch.Tensor:
        bundle = load_bundle()
        rows = {scene.name: scene.prompt_rows[0] for scene in bundle.classes}
        texts = [bundle.prompts[rows[name]] for name in self.names]
        return embed_texts(self.base.text_encoder, self.base.tokenizer, texts)

    @cached_property
    def real(self) -> list[torch.Tensor]:
        """Real images [n, 3, H, W] of each class."""
        train = self.parts[0]
        return [to_float(torch.from_numpy(train.images[train.labels == label])) for label in self.labels]

    @cached_property
    def latents(self) -> list[torch.Tensor]:
        train = self.parts[0]
        found = encode_cached(self.base.vae, train.images, train.hashes, self.work / "latents")
        return [found[train.labels == label] for label in self.labels]


@dataclass(frozen=True)
class Eye:
    """A network, how its features become z [n, COMPONENTS], and z of the real images of each class.

    Args:
        tells: whether its logits are worth listening to.
    """

    network: Classifier
    tells: bool
    mean: torch.Tensor
    whiten: torch.Tensor
    real: list[torch.Tensor]

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """z of images, and their logits."""
        maps = maps_of(self.network, images)
        return (embed(maps) - self.mean) @ self.whiten, self.network.head(maps[-1].float().mean(dim=(2, 3)))


def opened(network: Classifier, of: Material, tells: bool = False) -> Eye:
    """Measure what an eye sees of the real images."""
    network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.no_grad():
        features = [torch.cat([embed(maps_of(network, p)) for p in images.split(250)]) for images in of.real]
    within = torch.cat([part - part.mean(0) for part in features])
    variances, directions = torch.linalg.eigh(within.T @ within / len(within))
    whiten = directions[:, -COMPONENTS:] / variances[-COMPONENTS:].clamp_min(1e-10).sqrt()
    mean = torch.cat(features).mean(0)
    return Eye(network, tells, mean, whiten, [(part - mean) @ whiten for part in features])


def untrained(number: int, images: torch.Tensor) -> Classifier:
    shapes = residual_shapes(2)
    torch.manual_seed(7000 + number)
    network = shapes[number * 4 % len(shapes)].build().train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        for part in images.split(250):
            network(part)
    return network


def eyes(of: Material) -> list[Eye]:
    together = torch.cat(of.real)
    together = together[torch.randperm(len(together), generator=step_generator(0, 0))][:1500]
    found = [opened(untrained(number, together), of) for number in range(UNTRAINED)]
    data: Labelled = labelled(of.parts[0])
    held = labelled(of.parts[1])
    shapes = residual_shapes(len(of.parts[0].classes))
    for number, steps in enumerate(TRAINED):
        training = ClassifierTraining(steps=steps, seed=8000 + number)
        network = train_classifier(*data, held, shapes[number * 4 % len(shapes)], training).model
        found.append(opened(network, of, tells=steps == max(TRAINED)))
    return found


def distance(z: torch.Tensor, real: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The mean of |φ(z) − φ(real)|² over directions and frequencies, without bias of the size of z."""
    directions = torch.randn(z.shape[1], DIRECTIONS, generator=generator)
    directions = directions / directions.norm(dim=0)
    total, n = torch.zeros(()), len(z)
    for frequency in FREQUENCIES:
        made, wanted = frequency * z @ directions, frequency * real @ directions
        cos, sin = made.cos().sum(0), made.sin().sum(0)
        real_cos, real_sin = wanted.cos().mean(0), wanted.sin().mean(0)
        own = (cos**2 + sin**2 - n) / (n * (n - 1))
        total = total + (own - 2 * (cos * real_cos + sin * real_sin) / n + real_cos**2 + real_sin**2).mean()
    return total / len(FREQUENCIES)


def one_call(of: Material, base: Base, codes: torch.Tensor, noise: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """ẑ0 of one call of the UNet for codes [n, C, h, w] of classes [n], which count `of.names`."""
    alpha, sigma = base.schedule.alpha_sigma(of.timestep)
    noisy = add_noise(codes, noise, alpha, sigma)
    output = base.unet(noisy, torch.tensor(of.timestep), of.prompts[classes]).sample
    found: torch.Tensor = predicted_original(noisy, output, base.schedule.prediction_type, alpha, sigma)
    return found


def drawn(latents: list[torch.Tensor], each: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Random latents, `each` of every class, and noise for them."""
    chosen = torch.cat([part[torch.randint(len(part), (each,), generator=generator)] for part in latents])
    return chosen, torch.randn(chosen.shape, generator=generator)


def last_blocks(base: Base) -> list[nn.Parameter]:
    base.unet.requires_grad_(False)
    parts = (*base.unet.up_blocks[-2:], base.unet.conv_norm_out, base.unet.conv_out)
    return [p.requires_grad_() for part in parts for p in part.parameters()]


def train(arm: str, of: Material, steps: int, opinion: float) -> None:
    base, decode, each = of.base, frozen_decoder(of.base), IMAGES // len(of.names)
    watching = eyes(of) if arm == "matched" else []
    trained, classes = last_blocks(base), torch.arange(len(of.names)).repeat_interleave(each)
    optimizer = torch.optim.AdamW(trained, lr=RATE, betas=(0.9, 0.99), weight_decay=0.0)
    share = DIFFUSION_SHARE if watching else 1.0
    began, lines = time.process_time(), []
    for step in range(steps):
        set_learning_rate(optimizer, RATE * min(1, (step + 1) / 20, (steps - step) / (0.3 * steps)))
        generator = step_generator(1, step)
        latents, noise = drawn(of.latents, each, generator)
        error = (one_call(of, base, latents, noise, classes) - latents).square().mean()
        loss, told = share * error, {"diffusion": float(error.detach())}
        if watching:
            images = decode(one_call(of, base, *drawn(of.codes, each, generator), classes))
            apart = torch.zeros(())
            for place in torch.randperm(len(watching), generator=generator)[:EYES_A_STEP].tolist():
                z, logits = watching[place](images)
                for made, real in zip(z.split(each), watching[place].real, strict=True):
                    apart = apart + distance(made, real, generator) / EYES_A_STEP / len(of.names)
                if opinion and watching[place].tells:
                    loss = loss + opinion * F.cross_entropy(logits, torch.tensor(of.labels).repeat_interleave(each))
            loss = loss + DISTANCE_SHARE * apart
            told["apart"] = float(apart.detach())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        lines.append(told)
        if (step + 1) % 20 == 0:
            means = {key: round(float(np.mean([line[key] for line in lines[-20:]])), 4) for key in told}
            print(arm, step + 1, means, f"{time.process_time() - began:.0f} s", flush=True)
    weights = {name: value.contiguous() for name, value in base.unet.state_dict().items()}
    save_file(weights, of.work / f"{arm}.safetensors")


@torch.no_grad()
def made(arm: str, of: Material) -> Images:
    """[classes · IPC, H, W, 3]: image i of a class begins at its code i."""
    base = load_base(of.base_name)
    if arm != "one-call":
        base.unet.load_state_dict(load_file(of.work / f"{arm}.safetensors"))
    found = []
    for number, codes in enumerate(of.codes):
        begun = codes[torch.arange(IPC) % len(codes)]
        noise, classes = torch.randn(begun.shape, generator=step_generator(2, number)), torch.full((10,), number)
        calls = zip(begun.split(10), noise.split(10), strict=True)
        found += [one_call(of, base, *call, classes).numpy() for call in calls]
    return decode_in_parts(base, np.concatenate(found))


def of_classes(scenes: SceneSet, of: Material) -> SceneSet:
    """The images of the classes that are trained, with labels that count these."""
    own = scenes.only(np.flatnonzero(np.isin(scenes.labels, of.labels)))
    return replace(own, classes=of.names, labels=np.searchsorted(of.labels, own.labels))


def judge(arm: str, of: Material, around: Path, begin: int, held: SceneSet, recipe: Recipe) -> dict[str, Any]:
    """Metrics of these classes' images, and students who see them in place of those of a whole set from `begin` on."""
    train, whole = of.parts[0], np.load(around).copy()
    labels = np.repeat(np.arange(len(train.classes)), IPC)
    rows = np.concatenate([np.flatnonzero(labels == label) for label in of.labels])
    if arm != "around":
        late = np.arange(len(rows)) % IPC >= begin
        whole[rows[late]] = made(arm, of)[late]
    images = SceneSet(train.classes, whole, labels, (), ())
    own, real, unseen = (of_classes(part, of) for part in (images, train, held))
    return {
        "named right by the teacher": named_right(images.only(rows)),
        **image_metrics(arm, IPC, own, real, unseen),
        "students": {str(ipc): student_accuracies(arm, ipc, images, held, recipe) for ipc in (50, IPC)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["train", "judge"])
    parser.add_argument("data", type=Path)
    parser.add_argument("--base", default="nano")
    parser.add_argument("--arms", default="around,one-call,diffusion,matched")
    parser.add_argument("--classes", default=",".join(THREE), help="separated by commas, or all")
    parser.add_argument("--timestep", type=int, default=600)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--opinion", type=float, default=0.0, help="weight of the cross-entropy of trained eyes")
    parser.add_argument("--student-steps", type=int, default=1000)
    parser.add_argument("--around", type=Path, help="200 images of each class by samplers.py; judge needs it")
    parser.add_argument("--from", type=int, default=0, dest="begin", help="the first image that is put in its place")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True, mode=0o700)
    every = tuple(scene.name for scene in load_bundle().classes)
    names = tuple(name for name in every if args.classes == "all" or name in args.classes.split(","))
    of = Material(args.data, args.base, args.work, names, args.timestep)
    if args.stage == "train":
        for arm in args.arms.split(","):
            train(arm, replace(of), args.steps, args.opinion)
        return
    recipe = replace(load_recipe("quick"), steps=args.student_steps)
    held, found = of.parts[1].only(np.arange(0, len(of.parts[1].images), 2)), {}
    for arm in args.arms.split(","):
        found[arm] = judge(arm, of, args.around, args.begin, held, recipe)
        print(arm, json.dumps(found[arm]), flush=True)
    settings = {
        name: str(getattr(args, name))
        for name in ("base", "classes", "timestep", "steps", "opinion", "begin", "student_steps")
    }
    tell({"settings": settings, "half": "even", "arms": found}, args.out)


if __name__ == "__main__":
    main()
