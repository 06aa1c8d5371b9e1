"""Scenes of many bands: what the VAE keeps of them, and what sets of codes are worth, over repeated splits.

    python benchmarks/bands.py vae EUROSAT_MS/train --splits 3 --work W --out vae.json
    python benchmarks/bands.py sets EUROSAT_MS/train --arms all/4,3,2 --fewest 10 --work W --out sets.json
    python benchmarks/bands.py sets EUROSAT_MS/train --students "groups:RGB=4,3,2;NIR=8" --work W --out groups.json
    python benchmarks/bands.py sets SHIPS/train --stretch dB:-25:5 --work W --out ships.json

Only DATA is read, and each split holds out a random quarter of every class.

vae   PSNR by band of held-out images, and a linear probe on their band statistics (mean and deviation of each band, and
      of its horizontal and vertical steps), trained on real images: on held-out real images, on their reconstructions,
      and on red, green and blue alone. `own` is the VAE that a run trains, `threes` the base's untuned VAE, to which
      the bands are given three at a time, at several times the codes.
sets  one training, bundle and set for each split and reading, and students on it against as many random real images.

--fewest lets codes be matched to classes with fewer images than `dpd train` wants. --work is private.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from result_file import tell
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dpd_eval.comparison.config import EvaluateConfig
from dpd_eval.comparison.evaluate import evaluate
from dpd_export import ExportOptions, export_run
from dpd_runtime import generate, load_bundle, write_set
from dpd_runtime.annotations import Images
from dpd_runtime.images.bands import shown_bands
from dpd_train.bases.base import load_base
from dpd_train.bases.latents import reconstruct
from dpd_train.compute.device import hardware
from dpd_train.config import TrainConfig
from dpd_train.images import SceneSet, read_scenes, to_float
from dpd_train.reading import parse_reading
from dpd_train.run import folder as folders
from dpd_train.train import train
from dpd_train.vae.autoencoder import train_autoencoder
from dpd_train.vae.bands import bands_training, with_bands

SIDE, HELD = 64, 4  # a quarter is held out
OF_ARM = ("arm", "student", "ipc", "images", "oa_mean", "oa_runs", "steps", "seconds")


def split(scenes: SceneSet, seed: int) -> tuple[SceneSet, SceneSet]:
    """A random quarter of every class, and the rest before it."""
    generator, held = np.random.default_rng(seed), []
    for label in range(len(scenes.classes)):
        rows = generator.permutation(np.flatnonzero(scenes.labels == label))
        held += sorted(rows[: max(1, len(rows) // HELD)].tolist())
    kept = sorted({*range(len(scenes.labels))} - {*held})
    return scenes.only(kept), scenes.only(held)


def statistics(images: Images) -> npt.NDArray[np.float64]:
    """Features [n, 6 · N] of images [n, H, W, N]."""
    values = images.astype(np.float64)
    maps = (values, np.diff(values, axis=1), np.diff(values, axis=2))
    return np.concatenate([part for one in maps for part in (one.mean((1, 2)), one.std((1, 2)))], axis=1)


def probe(train: tuple[Images, Any], test: tuple[Images, Any]) -> float:
    """Accuracy in % of a linear probe."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    model.fit(statistics(train[0]), train[1])
    return 100 * float(model.score(statistics(test[0]), test[1]))


def psnr(images: Images, again: Images) -> list[float]:
    """dB of each band, the mean over images."""
    errors = np.square(images.astype(np.float64) - again).mean((1, 2)).clip(1e-10)
    return [round(float(value), 2) for value in (10 * np.log10(255**2 / errors)).mean(0)]


def bits(images: torch.Tensor) -> Images:
    return ((images + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def in_threes(images: Images) -> Images:
    """What the base's VAE gives back of three bands at a time; the last ones are repeated to fill up."""
    vae, count = load_base("nano").vae, images.shape[-1]
    parts = []
    for first in range(0, count, 3):
        places = [min(first + i, count - 1) for i in range(3)]
        parts.append(bits(reconstruct(vae, to_float(torch.from_numpy(images[..., places]))))[..., : count - first])
    return np.concatenate(parts, axis=-1)


def of_vae(scenes: SceneSet, seed: int, steps: int, work: Path) -> dict[str, Any]:
    """The figures of one split."""
    folder, config = work / f"vae{seed}", TrainConfig(vae_steps=steps, seed=seed, bands="all")
    folder.mkdir(parents=True, exist_ok=True)
    kept, held = split(scenes, seed)
    begun, state = time.monotonic(), folder / "vae.safetensors"
    vae = with_bands(load_base("nano"), scenes.images.shape[-1]).vae
    images = (torch.from_numpy(kept.images), torch.from_numpy(held.images))
    train_autoencoder(vae, *images, bands_training(config), state)
    again = {
        "own": bits(reconstruct(vae, to_float(torch.from_numpy(held.images)))),
        "threes": in_threes(held.images),
    }
    colours, real = list(shown_bands(scenes.bands)), (kept.images, kept.labels)
    probes = {
        "real": probe(real, (held.images, held.labels)),
        "rgb": probe((kept.images[..., colours], kept.labels), (held.images[..., colours], held.labels)),
        **{name: probe(real, (images, held.labels)) for name, images in again.items()},
    }
    return {
        "psnr_db": {name: psnr(held.images, images) for name, images in again.items()},
        "probe": probes,
        "seconds": round(time.monotonic() - begun),
    }


def of_set(root: Path, scenes: SceneSet, seed: int, bands: str, args: argparse.Namespace) -> dict[str, Any]:
    """The figures of one split and reading."""
    place = args.work / f"{bands.replace(',', '_')}-{seed}"
    data = place / "data"
    for part, some in zip(("train", "val"), split(scenes, seed), strict=True):
        for path in some.paths:
            link = data / part / path
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to((root / path).resolve())
    config = TrainConfig(
        ipc=args.ipc,
        bands=bands,
        stretch=args.stretch,
        steps=0,
        prototypes="matched",
        seed=seed,
        watcher_steps=args.watcher_steps,
        vae_steps=args.steps,
        matching_steps=args.matching_steps,
    )
    begun = time.monotonic()
    if not (place / "run" / "run.json").exists():
        train(data, place / "run", config, resume=True, cache=place / "cache")
    if not (place / "site.dpd").exists():
        export_run(place / "run", place / "site.dpd", ExportOptions(codes_only=True))
    bundle = load_bundle(place / "site.dpd")
    ipc, made = bundle.largest_ipc or args.ipc, time.monotonic()
    write_set(generate(bundle, ipc=ipc, provider="cpu", seed=seed), place / "set")
    wrote = time.monotonic()
    judged = evaluate(
        [place / "set"],
        EvaluateConfig(
            students=tuple(args.students.split("/")),
            baselines=("random",),
            ipc=(ipc,),
            pairs=args.pairs,
            bands=bands,
            stretch=args.stretch,
        ),
        train=data,
        test="val",
    ).to_dict()
    return {
        "ipc": ipc,
        "bundle_bytes": (place / "site.dpd").stat().st_size,
        "generation_seconds": round(wrote - made, 2),
        "seconds": round(time.monotonic() - begun),
        "arms": [{name: arm[name] for name in OF_ARM} for arm in judged["arms"]],
        "differences": judged["differences"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("vae", "sets"))
    parser.add_argument("data", type=Path)
    parser.add_argument("--arms", default="all", help="readings, separated by /")
    parser.add_argument("--students", default="convnet", help="separated by /")
    parser.add_argument("--stretch")
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--steps", type=int, default=TrainConfig().vae_steps)
    parser.add_argument("--watcher-steps", type=int, default=150)
    parser.add_argument("--matching-steps", type=int, default=300)
    parser.add_argument("--ipc", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--fewest", type=int, default=folders.LEAST_MATCHED)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    folders.LEAST_MATCHED = args.fewest
    scenes = {
        arm: read_scenes(args.data, part="all", resolution=SIDE, reading=parse_reading(arm, args.stretch))
        for arm in args.arms.split("/")
    }
    options = {name: value for name, value in vars(args).items() if name not in ("work", "out", "data", "what")}
    record: dict[str, Any] = {
        "what": args.what,
        "data": args.data.resolve().parent.name,
        "options": options,
        "hardware": hardware(torch.device("cpu")),
        "bands": [band.name for band in scenes[args.arms.split("/")[0]].bands],
        "splits": [],
    }
    for seed in range(args.splits):
        if args.what == "vae":
            record["splits"].append(of_vae(scenes[args.arms], seed, args.steps, args.work))
        else:
            found = {arm: of_set(args.data, some, seed, arm, args) for arm, some in scenes.items()}
            record["splits"].append(found)
        tell(record, args.out)


if __name__ == "__main__":
    main()
