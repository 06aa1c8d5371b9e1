"""Short trainings of the nano denoiser that differ in one factor, from the same start and with the same core time.

    python benchmarks/pilots.py train --factors control,plain --minutes 12 --state S EUROSAT/train UCMERCED/train
    python benchmarks/pilots.py references --state S EUROSAT/train UCMERCED/train
    python benchmarks/pilots.py judge --factors shipped,control --state S EUROSAT/train UCMERCED/train
    python benchmarks/pilots.py table --state S --out pilots.json EUROSAT/train UCMERCED/train
    python benchmarks/pilots.py errors --factors third --third DENOISER --state S EUROSAT/train UCMERCED/train
    python benchmarks/pilots.py table --odd --state S --out third.json EUROSAT/train UCMERCED/train

The core time is the process's own CPU time, so other work on the machine shortens no pilot. Each begins at the shipped
base, with layers that it lacks added so that they change nothing at first. The factors:

    control       what made the shipped base: v, min-SNR γ = 5
    plain         v with the same weight at all timesteps
    uncertainty   a learned weight for each noise level (Karras et al. 2024, EDM2, eq. 21)
    attention8    uncertainty, and attention at 8 × 8 positions besides 4 × 4
    attention16   uncertainty, and attention at 16 × 16 and 8 × 8 positions too
    aligned       uncertainty, and the map after the first upsampling block predicts a map of an encoder of EuroSAT
                  (iREPA, Singh et al. 2025, 2512.10794: a 3 × 3 projection, and the map without its mean over the
                  positions)
    third         no pilot: the average of an unfinished training with attention at 8 × 8, from its state file

The weights of the noise levels were compared first. In the record of that comparison, `attention8` still had min-SNR.

Judged on EuroSAT's validation images of even number by file name; the others are for the figures of what wins
(`--odd`).
The decoder's features, which the shipped recipe adds for its last part, are left out of all pilots.
"""

import argparse
import copy
import json
import time
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from result_file import tell
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from dpd_eval.comparison.plan import Training, run_plan
from dpd_eval.extractors.choice import build_extractor
from dpd_eval.extractors.own import own_extractor, small_pixels
from dpd_eval.metrics.detail import set_detail
from dpd_eval.metrics.set_metrics import set_metrics
from dpd_eval.statistics import overall_accuracy, paired_difference
from dpd_eval.students.cache import default_folder
from dpd_eval.students.recipe import Recipe, load_recipe
from dpd_runtime.annotations import Array
from dpd_runtime.bundle.bundle import load_bundle
from dpd_runtime.engines.engine import Provider
from dpd_runtime.generation.block import Block
from dpd_runtime.generation.compute import BlockComputer
from dpd_runtime.generation.networks import load_networks
from dpd_runtime.generation.teacher import load_teacher
from dpd_runtime.sampling.sampler import BLOCK
from dpd_train.bases.base import Base, load_base
from dpd_train.bases.latents import encode_cached
from dpd_train.bases.nano import with_attention
from dpd_train.captions.attributes import describe_many
from dpd_train.captions.captions import caption_table, embed
from dpd_train.classifiers.network import set_learning_rate
from dpd_train.compute.checkpoint import load_state, step_generator, without_prefix
from dpd_train.diffusion.averages import PowerAverage
from dpd_train.diffusion.denoiser import LatentData
from dpd_train.diffusion.noise_levels import base_predict, class_gaussians, levels_of, original_errors
from dpd_train.diffusion.step import denoise, draw
from dpd_train.diffusion.uncertainty import Uncertainty
from dpd_train.images import SceneSet
from dpd_train.images.crops import Crops
from dpd_train.images.symmetry import d4_each
from dpd_train.pretrain.pool import Pool, Sources, read_pool

BATCH, PEAK_RATE, WARMUP, DECAY_FROM = 48, 4e-4, 100, 0.5
DIRECTION = 0.5  # weight of 1 − cosine, as in the shipped recipe
AVERAGE = 0.1  # relative width
ALIGNED = 0.5  # weight of 1 − cosine between the predicted and the encoder's map
GAMMA = 5.0
IPC, STUDENTS = 50, 3
EUROSAT = 12_000  # images of the first source
FACTORS = ("control", "plain", "uncertainty", "attention8", "attention16", "aligned")
THIRD = "third"


@dataclass(frozen=True)
class Material:
    """The shipped base and the images of all sources."""

    pool: Pool
    base: Base
    state: Path
    third: Path | None = None
    odd: bool = False

    @property
    def judged(self) -> slice:
        """The validation images that judge."""
        return slice(1 if self.odd else 0, None, 2)

    @cached_property
    def data(self) -> LatentData:
        return self._latents(self.pool.train, self.pool.weights)

    @cached_property
    def held(self) -> LatentData:
        """EuroSAT's validation part."""
        whole = self._latents(self.pool.held, None)
        rows = self.pool.held_of[next(iter(self.pool.held_of))]
        return LatentData(whole.latents[rows], whole.labels[rows], whole.captions)

    @property
    def eurosat(self) -> SceneSet:
        """The first source's training part."""
        own = self.pool.train.only(np.flatnonzero(self.pool.of_image < EUROSAT))
        return replace(own, classes=own.classes[: int(own.labels.max()) + 1])

    def _latents(self, scenes: SceneSet, weights: torch.Tensor | None) -> LatentData:
        latents = encode_cached(self.base.vae, scenes.images, scenes.hashes, self.state / "latents")
        captions = caption_table(
            self.base.tokenizer, scenes.classes, scenes.labels.tolist(), describe_many(scenes.images)
        )
        return LatentData(latents, torch.from_numpy(scenes.labels), captions, weights)

    @cached_property
    def maps(self) -> torch.Tensor:
        """Maps [n, D, 8, 8] float16 of all training images from an encoder that was trained on EuroSAT's."""
        encoder = own_extractor(self.eurosat).embed.args[0]  # type: ignore[attr-defined]
        with torch.no_grad():
            batches = (self.pool.train.images[i : i + 256] for i in range(0, len(self.pool.train.images), 256))
            found = torch.cat([encoder.features(small_pixels(batch))[-1].half() for batch in batches])
        return F.adaptive_avg_pool2d(found.float(), 8).half()


def unet_of(factor: str, base: Base) -> UNet2DConditionModel:
    """The shipped UNet, with more attention where the factor says so. What is added gives zero at first."""
    levels = {"attention8": 2, "attention16": 3, THIRD: 2}.get(factor)
    torch.manual_seed(0)
    return base.unet if levels is None else with_attention(base.unet, levels)


def train(factor: str, of: Material, minutes: float) -> None:
    torch.manual_seed(0)
    modules = nn.ModuleDict({"unet": unet_of(factor, of.base), "text_encoder": of.base.text_encoder}).train()
    modules.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    extra = nn.ModuleDict()
    learned = factor not in ("control", "plain")
    if learned:
        extra["uncertainty"] = Uncertainty()
    seen: list[torch.Tensor] = []
    if factor == "aligned":
        extra["projection"] = nn.Conv2d(160, of.maps.shape[1], 3, padding=1)
        modules["unet"].up_blocks[0].register_forward_hook(lambda *given: seen.append(given[-1]))
    trained = [*modules.parameters(), *extra.parameters()]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.01},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer, average = torch.optim.AdamW(groups, betas=(0.9, 0.99)), PowerAverage(modules, AVERAGE)
    data, schedule = of.data, of.base.schedule
    began, budget, step = time.process_time(), 60 * minutes, 0
    while (share := (time.process_time() - began) / budget) < 1:
        rate = PEAK_RATE * min(1, (step + 1) / WARMUP) * min(1, (1 - share) / (1 - DECAY_FROM))
        set_learning_rate(optimizer, rate)
        generator = step_generator(0, step)
        drawn = draw(BATCH, data.latents.shape, data.labels, data.captions, 0.1, schedule, generator, data.weights)
        latents = d4_each(data.latents[drawn.rows], drawn.elements)
        context = modules["text_encoder"](drawn.ids).last_hidden_state
        gamma = GAMMA if factor == "control" else None
        said = denoise(modules["unet"], latents, drawn.noise, drawn.timesteps, context, schedule, gamma)
        losses = said.squared_error() + DIRECTION * said.direction_error()
        if learned:
            level = extra["uncertainty"](drawn.snr)
            losses = losses * (-level).exp() + level
        loss = losses.mean()
        if factor == "aligned":
            wanted = d4_each(of.maps[drawn.rows].float(), drawn.elements)
            wanted = wanted - wanted.mean(dim=(2, 3), keepdim=True)
            found = extra["projection"](seen.pop().contiguous())
            loss = loss + ALIGNED * (1 - F.cosine_similarity(found, wanted, dim=1)).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        average.update(modules, step)
        step += 1
        if step % 100 == 0:
            print(f"{factor}: {step} steps, {100 * share:.0f} %, loss {float(loss):.4f}", flush=True)
    weights = {name: tensor.contiguous() for name, tensor in average.modules.state_dict().items()}
    save_file(weights, of.state / f"{factor}.safetensors")
    (of.state / f"{factor}.json").write_text(json.dumps({"steps": step, "core_minutes": minutes}))
    keep_errors(factor, of)


def pilot(factor: str, of: Material) -> Base:
    """The base that a pilot trained; for "shipped", the shipped one."""
    if factor == "shipped":
        return of.base
    if factor == THIRD:
        assert of.third is not None, "--third is missing"
        weights = without_prefix("ema", load_state(of.third)[0])
    else:
        weights = load_file(of.state / f"{factor}.safetensors")
    modules = nn.ModuleDict({"unet": unet_of(factor, of.base), "text_encoder": copy.deepcopy(of.base.text_encoder)})
    modules.load_state_dict(weights)
    modules.eval()
    return replace(of.base, unet=modules["unet"], text_encoder=modules["text_encoder"])


@dataclass(frozen=True)
class TorchUNet:
    """A UNet of PyTorch where the runtime expects a graph."""

    unet: nn.Module

    def run(self, **inputs: Array) -> Array:
        sample, timestep, context = (
            torch.from_numpy(inputs[name]) for name in ("sample", "timestep", "encoder_hidden_states")
        )
        with torch.no_grad():
            found: Array = self.unet(sample, timestep, context).sample.numpy()
        return found


def sampled(base: Base, ipc: int, **changes: Any) -> SceneSet:
    """So many images of each class, sampled with this base's UNet and text encoder.

    Args:
        changes: fields of the `Sampler` with which the embedded bundle samples.
    """
    bundle = load_bundle()
    with torch.no_grad():
        prompts, empty = (
            embed(base.text_encoder, base.tokenizer, list(texts)).numpy() for texts in (bundle.prompts, [""])
        )
    bundle = replace(bundle, prompt_embeddings=prompts, empty_embedding=empty[0])
    sampler = replace(bundle.manifest.sampler.sampled(), **changes)
    networks = replace(load_networks(bundle, Provider("cpu", ""), 1), unet=TorchUNet(base.unet))
    computer = BlockComputer(bundle, sampler, networks, seed=0)
    images, labels = [], []
    for scene in bundle.classes:
        for number in range(ipc // BLOCK):
            images += [image.pixels for image in computer.compute(Block(scene, number))]
        labels += [scene.label] * ipc
    names = tuple(scene.name for scene in bundle.classes)
    return SceneSet(names, np.stack(images), np.array(labels, np.int64), (), ())


def judge(factor: str, of: Material) -> dict[str, Any]:
    """Metrics of first candidates, and students of the best of three, on one half of the validation images."""
    base, eurosat = pilot(factor, of), of.eurosat
    held = of.pool.held.only(np.arange(1000)[of.judged])
    first, best = (sampled(base, IPC, candidates=n) for n in (1, 3))
    return {
        "first candidates named right by the teacher": named_right(first),
        **image_metrics(factor, IPC, first, eurosat, held),
        "students of the best of three": student_accuracies(factor, IPC, best, held),
    }


def named_right(images: SceneSet) -> float:
    """The share of images whose class the embedded bundle's teacher names."""
    teacher = load_teacher(load_bundle(), Provider("cpu", ""), 1)
    named = np.array([teacher(pixels).argmax() for pixels in images.images]) == images.labels
    return round(float(named.mean()), 4)


def image_metrics(name: str, ipc: int, images: SceneSet, train: SceneSet, held: SceneSet) -> dict[str, Any]:
    """Detail beside held-out real images; coverage of real training images, and KID."""
    detail, real = (set_detail(name, ipc, (x.images, x.labels), images.classes) for x in (images, held))
    untrained = build_extractor("untrained", train)
    reference = (untrained.features(train.images), train.labels)
    metrics = set_metrics(name, ipc, (images.images, images.labels), reference, untrained, images.classes, seed=0)
    return {
        "power by octave ÷ real": [round(a / b, 3) for a, b in zip(detail.octaves, real.octaves, strict=True)],
        "fine contrast ÷ real": {
            name: round(detail.fine_contrast[name] / real.fine_contrast[name], 3) for name in images.classes
        },
        "kurtosis": {name: [round(detail.kurtosis[name], 2), round(real.kurtosis[name], 2)] for name in images.classes},
        "coverage and KID, untrained network": [round(metrics.coverage, 4), round(metrics.kid, 4)],
    }


def student_accuracies(
    name: str, ipc: int, images: SceneSet, held: SceneSet, recipe: Recipe | None = None
) -> list[float]:
    """Accuracies of students, by default of the quick recipe, on the first `ipc` images of each class."""
    place = [np.flatnonzero(images.labels == label)[:ipc] for label in range(len(images.classes))]
    plan = [Training(name, "convnet", ipc, seed, ((images, np.concatenate(place)),)) for seed in range(STUDENTS)]
    outcomes, _ = run_plan(plan, held, recipe or load_recipe("quick"), 1, default_folder(), lambda *_: None)
    return [overall_accuracy(outcome.confusion) for outcome in outcomes]


def errors_of(base: Base, of: Material) -> np.ndarray:
    """Errors of ẑ0 [levels, n] on EuroSAT's validation part."""
    held, schedule = of.held, base.schedule
    predict = base_predict(base, held.labels, of.pool.train.classes, torch.device("cpu"))
    return original_errors(predict, held.latents, schedule, levels_of(schedule)).numpy()


def keep_errors(factor: str, of: Material) -> None:
    """Errors of a pilot in a file of its own; of an unfinished training with its step."""
    if factor == THIRD and of.third:
        step = int(load_state(of.third)[1]["step"])
        (of.state / f"{factor}.json").write_text(json.dumps({"steps": step}))
    np.savez(of.state / f"{factor}.npz", errors=errors_of(pilot(factor, of), of))


def judge_references(of: Material) -> None:
    """Errors of the class mean, the class Gaussian and the shipped base."""
    classes = of.pool.train.classes
    eurosat = torch.from_numpy(np.flatnonzero(of.pool.of_image < EUROSAT))
    labels = of.data.labels[eurosat]
    gaussians = class_gaussians(of.data.latents[eurosat], labels, int(labels.max()) + 1)
    held, schedule, levels = of.held, of.base.schedule, levels_of(of.base.schedule)
    found = {
        "mean": original_errors(gaussians.predict_mean(held.labels), held.latents, schedule, levels).numpy(),
        "Gaussian": original_errors(gaussians.predict(held.labels, schedule), held.latents, schedule, levels).numpy(),
        "shipped": errors_of(of.base, of),
    }
    np.savez(of.state / "references.npz", labels=held.labels.numpy(), classes=np.array(classes), **found)


def table(of: Material) -> dict[str, Any]:
    """Errors ÷ the Gaussian's on one half, with a t-interval of the paired difference over images."""
    known = np.load(of.state / "references.npz")
    levels, chosen = levels_of(of.base.schedule), of.judged
    gaussian = known["Gaussian"][:, chosen]
    arms = {name: known[name][:, chosen] for name in ("mean", "shipped")}
    records = {}
    for factor in (*FACTORS, THIRD):
        if (of.state / f"{factor}.npz").exists():
            arms[factor] = np.load(of.state / f"{factor}.npz")["errors"][:, chosen]
            records[factor] = json.loads((of.state / f"{factor}.json").read_text())
    return {
        "judged_on": f"{gaussian.shape[1]} validation images of EuroSAT, those of {'odd' if of.odd else 'even'} number",
        "pilots": records,
        "sampled": {
            factor: json.loads(path.read_text())
            for factor in ("shipped", *FACTORS, THIRD)
            if (path := of.state / f"{factor}.judged.json").exists()
        },
        "error of the Gaussian": dict(zip(map(str, levels), gaussian.mean(1).round(4).tolist(), strict=True)),
        "error ÷ the Gaussian's": {
            name: {
                str(level): _ratio(errors, reference)
                for level, errors, reference in zip(levels, found, gaussian, strict=True)
            }
            for name, found in arms.items()
        },
    }


def _ratio(errors: np.ndarray, reference: np.ndarray) -> list[float]:
    """Ratio of the means, and the ends of its 95 % interval, from the paired differences."""
    found = paired_difference(errors.tolist(), reference.tolist())
    mean = reference.mean()
    return [round(float(1 + value / mean), 4) for value in (found.mean, found.low, found.high)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "references", "errors", "judge", "table"))
    parser.add_argument("--factors", default=",".join(FACTORS))
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--third", type=Path, help="state file of an unfinished training, for the factor third")
    parser.add_argument("--odd", action="store_true", help="judge by the images of odd number")
    parser.add_argument("--out", type=Path)
    parser.add_argument("eurosat")
    parser.add_argument("ucmerced")
    args = parser.parse_args()
    args.state.mkdir(parents=True, exist_ok=True)
    sources = Sources(
        data=(args.eurosat, args.ucmerced, "drawn:110"),
        resolution=64,
        val_per_class=(100, 10, 10),
        split="names",
        shares=(6, 3.5, 0.5),
        crops=Crops(),
    )
    pool = read_pool(sources)
    of = partial(Material, pool, state=args.state, third=args.third, odd=args.odd)
    if args.what == "references":
        judge_references(of(load_base("nano")))
        return
    if args.what == "table":
        tell(table(of(load_base("nano"))), args.out)
        return
    for factor in args.factors.split(","):
        material = of(load_base("nano"))  # afresh, as a training changes it
        if args.what == "train":
            train(factor, material, args.minutes)
        if args.what == "errors":
            keep_errors(factor, material)
        if args.what == "judge":
            found = judge(factor, material)
            (args.state / f"{factor}.judged.json").write_text(json.dumps(found))
            print(factor, json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
