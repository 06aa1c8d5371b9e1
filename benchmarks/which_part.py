"""Find out which part keeps 500 generated images a class behind 500 real ones. No generator is trained.

    python benchmarks/which_part.py ../shared/data/eurosat_rgb/train --work W --out which_part.json
    python benchmarks/which_part.py EUROSAT/train --work W --ipc 10,50,100,200 --steps 1000 --out curve.json

Each arm is one set of 500 images a class, or its first images, and pair i trains student seed i on it. All arms are
judged by the whole validation part: no setting of the product is chosen by this, and no other table is read beside it.
The parts:

    today             the embedded bundle: 50 decoded codes and 450 re-noised ones
    real for three    today, but Highway, River and HerbaceousVegetation are VAE-decoded random real images
    re-noised real    today, but these three are re-noised from random real latents instead of codes
    all re-noised     every image re-noised from a random real latent
    sampled           every image sampled from noise, as after image 500
    Gaussian start    sampled, but a Gaussian of each class stands for the network at t > 900
    decoded real      VAE-decoded random real images: what a perfect generator would reach
    real              random real images
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ceiling import reconstructed
from diffusers import AutoencoderKL
from result_file import tell

from dpd_eval.comparison.plan import Training, run_plan
from dpd_eval.selection.methods import random_subset
from dpd_eval.statistics import overall_accuracy, paired_difference
from dpd_eval.students.cache import default_folder
from dpd_eval.students.recipe import load_recipe
from dpd_runtime.annotations import Array, Float32
from dpd_runtime.bundle.bundle import Bundle, load_bundle
from dpd_runtime.bundle.classes import SceneClass
from dpd_runtime.engines.engine import Engine
from dpd_runtime.generation.generate import generate
from dpd_runtime.generation.networks import UNET
from dpd_runtime.sampling.sampler import Sampler
from dpd_train.bases.latents import encode_cached
from dpd_train.diffusion.noise_levels import ClassGaussians, class_gaussians
from dpd_train.held_out import HeldOut
from dpd_train.images import SceneSet, read_scenes

IPC, SEED = 500, 0
THREE = ("HerbaceousVegetation", "Highway", "River")
GAUSSIAN_ABOVE = 900
ARMS = (
    "today",
    "real for three",
    "re-noised real",
    "all re-noised",
    "decoded real",
    "real",
    "sampled",
    "Gaussian start",
)
AGAINST = (
    ("real for three", "today"),
    ("re-noised real", "today"),
    ("re-noised real", "real for three"),
    ("all re-noised", "today"),
    ("all re-noised", "decoded real"),
    ("decoded real", "today"),
    ("decoded real", "real"),
    ("Gaussian start", "sampled"),
)


@dataclass(frozen=True, eq=False)
class GaussianStart(Bundle):
    """The bundle with a class Gaussian instead of the UNet at t > 900, for images of one class."""

    gaussians: ClassGaussians | None = None
    label: int = 0

    def engine(self, graph: str, *args: Any, **options: Any) -> Engine:
        network = super().engine(graph, *args, **options)
        return _Started(network, self) if graph == UNET else network


@dataclass(frozen=True)
class _Started:
    network: Engine
    bundle: GaussianStart

    def run(self, **inputs: Array) -> Array:
        timestep, noisy = int(inputs["timestep"]), torch.from_numpy(inputs["sample"])
        if timestep <= GAUSSIAN_ABOVE or self.bundle.gaussians is None:
            return self.network.run(**inputs)
        alpha, sigma = self.bundle.schedule.alpha_sigma(timestep)
        labels = torch.full((len(noisy),), self.bundle.label)
        original = self.bundle.gaussians.original(noisy, alpha, sigma, labels)
        return ((alpha * noisy - original) / sigma).numpy()  # v


@dataclass(frozen=True)
class Material:
    """What the arms are made of."""

    bundle: Bundle
    vae: AutoencoderKL
    train: SceneSet
    work: Path

    @cached_property
    def rows(self) -> np.ndarray:
        return random_subset(self.train.labels, IPC, SEED, self.train.classes)

    @cached_property
    def latents(self) -> torch.Tensor:
        return encode_cached(self.vae, self.train.images, self.train.hashes, self.work / "latents")

    @cached_property
    def real(self) -> SceneSet:
        return self.train.only(self.rows)

    @cached_property
    def decoded(self) -> SceneSet:
        """Kept in `work`, as a last bit that differs would train all its students again."""
        path = self.work / "decoded.npy"
        if not path.exists():
            np.save(path, reconstructed(self.vae, self.train, self.rows).only(self.rows).images)
        return replace(self.real, images=np.load(path))

    def generated(self, name: str, bundle_of: Callable[[SceneClass], Bundle], sampler: Sampler) -> SceneSet:
        """A set of this sampler, kept in `work`; `bundle_of` gives the bundle that makes a class."""
        images = []
        for scene in self.bundle.classes:
            path = self.work / f"{name} {scene.name}.npy"
            if not path.exists():
                made = generate(
                    bundle_of(scene), ipc=IPC, seed=SEED, classes=(scene.name,), sampler=sampler, provider="cpu"
                )
                np.save(path, np.stack([image.pixels for image in made]))
            images.append(np.load(path))
        return replace(self.real, images=np.concatenate(images))

    def three_from(self, other: SceneSet) -> SceneSet:
        """Today's set with the three classes of another."""
        own = np.isin(self.real.labels, [self.train.classes.index(name) for name in THREE])
        return replace(self.today(), images=np.where(own[:, None, None, None], other.images, self.today().images))

    def today(self) -> SceneSet:
        return self.generated("today", lambda _: self.bundle, self.bundle.manifest.sampler)

    def renoised_real(self) -> SceneSet:
        settings = self.bundle.manifest.sampler
        renoised = next(g for g in settings.guidance if g.kind == "re-noised")
        sampler = replace(settings, guidance=(replace(renoised, from_block=0),))
        return self.generated("re-noised real", self._on_real_latents, sampler)

    def _on_real_latents(self, scene: SceneClass) -> Bundle:
        own = self.rows[self.train.labels[self.rows] == scene.label]
        prototypes: Float32 = self.latents[own].numpy()
        changed = replace(scene, prototypes=prototypes)
        return replace(self.bundle, classes=tuple(changed if c is scene else c for c in self.bundle.classes))

    def sampled(self) -> SceneSet:
        return self.generated("sampled", lambda _: self.bundle, self.bundle.manifest.sampler.sampled())

    def gaussian_start(self) -> SceneSet:
        gaussians = class_gaussians(self.latents, torch.from_numpy(self.train.labels), len(self.train.classes))
        own = {field.name: getattr(self.bundle, field.name) for field in fields(Bundle)}
        started = partial(GaussianStart, **own, gaussians=gaussians)
        sampler = self.bundle.manifest.sampler.sampled()
        return self.generated("Gaussian start", lambda scene: started(label=scene.label), sampler)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--base", type=Path, default=Path("dpd_train/data/nano"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--ipc", default=str(IPC), help="how many of the 500 images of each class, separated by commas")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--arms", default=",".join(ARMS), help="separated by commas; finished ones come from the cache")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    train, held = (
        read_scenes(args.data, part=part, held_out=HeldOut(val_per_class=100, split="names"))
        for part in ("train", "val")
    )
    vae = AutoencoderKL.from_pretrained(args.base, subfolder="vae", torch_dtype=torch.float32).eval()
    of = Material(load_bundle(), vae, train, args.work)
    arms: dict[str, Callable[[], SceneSet]] = {
        "today": of.today,
        "real for three": lambda: of.three_from(of.decoded),
        "re-noised real": lambda: of.three_from(of.renoised_real()),
        "all re-noised": of.renoised_real,
        "decoded real": lambda: of.decoded,
        "real": lambda: of.real,
        "sampled": of.sampled,
        "Gaussian start": of.gaussian_start,
    }
    recipe, sizes = replace(load_recipe("quick"), steps=args.steps), [int(size) for size in args.ipc.split(",")]
    confusions: dict[int, dict[str, list[np.ndarray]]] = {ipc: {} for ipc in sizes}
    for name in args.arms.split(","):
        scenes = arms[name]()
        for ipc in sizes:
            first = np.concatenate([np.flatnonzero(scenes.labels == c)[:ipc] for c in range(len(train.classes))])
            plan = [Training(name, "convnet", ipc, seed, ((scenes, first),)) for seed in range(args.pairs)]
            outcomes, _ = run_plan(plan, held, recipe, args.jobs, default_folder(), lambda *_: None)
            confusions[ipc][name] = [outcome.confusion for outcome in outcomes]
            print(name, ipc, [overall_accuracy(confusion) for confusion in confusions[ipc][name]], flush=True)
    result = {
        "tested_on": "validation",
        "steps": args.steps,
        "bundle": of.bundle.hash,
        "by_ipc": {str(ipc): table(found, train.classes) for ipc, found in confusions.items()},
    }
    tell(result, args.out)


def table(confusions: dict[str, list[np.ndarray]], classes: tuple[str, ...]) -> dict[str, Any]:
    """Accuracy of each arm and of its classes, and paired differences over student seeds."""
    accuracy = {name: [overall_accuracy(c) for c in found] for name, found in confusions.items()}
    return {
        "oa": accuracy,
        "of class": {
            name: dict(zip(classes, np.mean([np.diag(c) / c.sum(1) for c in found], 0).round(4), strict=True))
            for name, found in confusions.items()
        },
        "difference": {
            f"{name} − {other}": asdict(paired_difference(accuracy[name], accuracy[other]))
            for name, other in AGAINST
            if {name, other} <= accuracy.keys()
        },
    }


if __name__ == "__main__":
    main()
