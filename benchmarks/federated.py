"""Compare federated with pooled fine-tuning: student accuracy, bytes sent, and membership inference for each site.

    python benchmarks/federated.py ucmerced/train --resolution 64 --val-per-class 10 --work /var/tmp/federated \
        --steps 2000 --rounds 20 --peak-rate 4e-4 --out benchmarks/results/federated.json

The training images are divided among --clients sites, each class by shares from a Dirichlet distribution (--skew: the
smaller, the more uneven). The sites' rounds run one after the other in this process, with the functions that
`dpd train --federated` uses. Every arm takes the same number of optimiser steps. The pooled batch is the sum of the
sites' batches, so that all arms see the same number of images. Sets are sampled without prototypes, with one candidate
and prompts that name the class, so that only the denoiser matters. Students are tested on the validation part.
Membership inference compares each site's images with the validation part. Finished parts in --work are reused.

Arms: start (the unchanged base), pooled, federated, compressed (RS-DGC), alone (only site 0).
"""

import argparse
import json
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablation import dpd, with_class_prompts
from numpy.typing import NDArray
from result_file import tell

from dpd_eval import EvaluateConfig, evaluate
from dpd_eval.audit.membership import membership_tests
from dpd_eval.audit.network_tests import compare_denoiser
from dpd_eval.statistics import ratio_verdict
from dpd_export import ExportOptions, export_run
from dpd_runtime.files import cache_folder
from dpd_runtime.sampling.sampler import DEFAULT_SAMPLER
from dpd_train.bases.base import Base, load_base, save_base, torch_denoise
from dpd_train.bases.folder import base_folder
from dpd_train.bases.latents import encode_cached
from dpd_train.captions.attributes import caption
from dpd_train.captions.captioners import describe_scenes
from dpd_train.captions.captions import CaptionTable, caption_table, embed
from dpd_train.config import TrainConfig
from dpd_train.diffusion.denoiser import LatentData
from dpd_train.diffusion.fine_tune import History, fine_tune
from dpd_train.federated.coordinator import Coordinator, Sent
from dpd_train.federated.settings import Federated, settings_of
from dpd_train.federated.shared import base_hash
from dpd_train.federated.site import SiteInputs, TrainingSite
from dpd_train.run.data import RunData, read_parts

ARMS = ("start", "pooled", "federated", "compressed", "alone")
Rows = NDArray[np.int64]
Parts = tuple[LatentData, LatentData]


def shared_out(labels: Rows, sites: int, skew: float, seed: int) -> list[Rows]:
    """Rows of each site, with every class divided by shares from Dirichlet(skew)."""
    found: list[list[Rows]] = [[] for _ in range(sites)]
    for label in range(int(labels.max()) + 1):
        shares = np.random.default_rng([seed, label]).dirichlet(np.full(sites, skew))
        rows = np.flatnonzero(labels == label)
        ends = np.round(np.cumsum(shares) * len(rows)).astype(int)[:-1]
        for site, part in enumerate(np.split(rows, ends)):
            found[site].append(part)
    return [np.sort(np.concatenate(parts)) for parts in found]


def only(data: LatentData, rows: Rows) -> LatentData:
    chosen, captions = torch.from_numpy(rows), data.captions
    table = CaptionTable(captions.template, captions.described[:, chosen], captions.empty)
    return LatentData(data.latents[chosen], data.labels[chosen], table)


def read_all(args: argparse.Namespace, config: TrainConfig, base: Base) -> tuple[RunData, Parts]:
    scenes, cache = read_parts(args.data, config, base.resolution), cache_folder("latents")

    def part(which: Any) -> LatentData:
        latents = encode_cached(base.vae, which.images, which.hashes, cache)
        phrases = describe_scenes(config.captioner, which, cache=cache, device="cpu", progress=lambda done, total: None)
        table = caption_table(base.tokenizer, which.classes, which.labels.tolist(), phrases)
        return LatentData(latents, torch.from_numpy(which.labels), table)

    return scenes, (part(scenes.train), part(scenes.held))


def together(
    args: argparse.Namespace, config: TrainConfig, classes: tuple[str, ...], parts: list[Parts], state: Path
) -> tuple[Base, History]:
    """Run all rounds of all sites in this process."""
    base = load_base(args.base)
    part = Federated(role="server", address="localhost:1", rounds=args.rounds, clients=len(parts), classes=classes)
    settings = settings_of(part, config, base_hash(base), base.resolution)
    coordinator = Coordinator(base, config, settings, len(parts))
    sites = []
    for number, data in enumerate(parts):
        own = tuple(classes[label] for label in np.unique(data[0].labels.numpy()))
        place = state / f"site{number}.safetensors"
        ground = SiteInputs(base=load_base(args.base), data=data, classes=own, config=config, state=place)
        sites.append(TrainingSite(ground, settings, number))
    for number in range(1, args.rounds + 1):
        answers = [(site.fit(number), site.images) for site in sites]
        back = coordinator.average([Sent(arrays, images, loss) for (arrays, loss), images in answers])
        coordinator.hear([site.take(back) for site in sites])
        print(coordinator.history[-1], flush=True)
    return coordinator.finished(state / "adapter"), coordinator.history


def tuned(
    name: str, args: argparse.Namespace, scenes: RunData, data: Parts, sites: list[Parts]
) -> tuple[Base, History]:
    config, state = config_of(args), args.work / f"{name}-state"
    if name == "start":
        return load_base(args.base), []
    if name in ("federated", "compressed"):
        compression = f"rs-dgc:{args.ratio:g}" if name == "compressed" else None
        shared = replace(config, batch=args.batch // args.clients, grad_compression=compression)
        return together(args, shared, scenes.train.classes, sites, state)
    if name == "alone":
        data, config = sites[0], replace(config, batch=args.batch // args.clients)
    place = state / "denoiser.safetensors"
    return fine_tune(load_base(args.base), data, config, place, state / "adapter", lambda step, steps: None)


def config_of(args: argparse.Namespace) -> TrainConfig:
    return TrainConfig(
        base=args.base,
        resolution=args.resolution,
        steps=args.steps,
        batch=args.batch,
        peak_rate=args.peak_rate,
        val_per_class=args.val_per_class,
        split="names",
        seed=args.seed,
    )


def judges(args: argparse.Namespace) -> Path:
    """A run on the same data whose classifiers are in every bundle. They choose no image."""
    run: Path = args.judges or args.work / "judges"
    if not (run / "run.json").exists():
        shutil.rmtree(run, ignore_errors=True)
        options = ["--base", args.base, "--steps", 0, "--prototypes", "none", "--teacher-steps", args.teacher_steps]
        options += ["--split", "names"]
        for name in ("resolution", "val_per_class"):
            if getattr(args, name) is not None:
                options += [f"--{name.replace('_', '-')}", getattr(args, name)]
        dpd("train", args.data, "--out", run, "--threads", 1, *options)
    return run


def run_of(name: str, args: argparse.Namespace, scenes: RunData, data: Parts, sites: list[Parts]) -> Path:
    """A run directory around the arm's denoiser."""
    out: Path = args.work / name
    if not (out / "figures.json").exists():
        shutil.rmtree(out, ignore_errors=True)
        begun = time.perf_counter()
        base, history = tuned(name, args, scenes, data, sites)
        with_class_prompts(judges(args), out)
        shutil.rmtree(out / "pipeline")
        save_base(base, out / "pipeline", base_folder(args.base) / "tokenizer")
        figures = {"seconds": round(time.perf_counter() - begun, 1), "log": history}
        (out / "figures.json").write_text(json.dumps(figures), encoding="utf-8")
    return out


def membership(run: Path, classes: tuple[str, ...], sites: list[Parts], held: LatentData, most: int) -> list[Any]:
    """The audit's membership tests of the denoiser for each site, against as many validation images of each class."""
    base = load_base(str(run / "pipeline"))
    prompts = embed(base.text_encoder, base.tokenizer, [caption(name, ()) for name in classes]).numpy()
    found = []
    for number, (own, _) in enumerate(sites):
        rng, rows = np.random.default_rng(number), ([], [])  # type: ignore[var-annotated]
        for label in range(len(classes)):
            both = [np.flatnonzero(part.labels.numpy() == label) for part in (own, held)]
            for side, members in zip(rows, both, strict=True):
                side.append(rng.permutation(members)[: min(map(len, both))])
        chosen = [np.concatenate(side)[rng.permutation(sum(map(len, side)))[:most]] for side in rows]
        asked = [
            (part.latents[r].numpy(), prompts[part.labels[r].numpy()])
            for part, r in zip((own, held), map(torch.from_numpy, chosen), strict=True)
        ]
        scores = compare_denoiser(torch_denoise(base), base.schedule, asked, lambda done, total: None)
        found.append([test.to_dict() for test in membership_tests(f"denoiser, site {number}", scores)])
    return found


def judged(name: str, args: argparse.Namespace, run: Path) -> dict[str, Any]:
    bundle, ipcs = run.with_suffix(".dpd"), [int(part) for part in args.ipc.split(",")]
    if not bundle.exists():
        guidance = tuple(replace(block, prototype_scale=0.0) for block in DEFAULT_SAMPLER.guidance)
        sampler = replace(DEFAULT_SAMPLER, guidance=guidance, candidates=1)
        export_run(run, bundle, ExportOptions(name=name, sampler=sampler))
    sets = [args.work / f"{name}-set{seed}" for seed in range(args.sets)]
    for seed, folder in enumerate(sets):
        if not (folder / "dataset.json").exists():
            dpd("generate", bundle, "--ipc", max(ipcs), "--seed", seed, "--out", folder)
    options: dict[str, Any] = {"val_per_class": args.val_per_class, "split": "names", "resolution": args.resolution}
    options["recipe"] = args.recipe
    config = EvaluateConfig(ipc=tuple(ipcs), pairs=args.pairs, metrics=False, **options)
    result = evaluate(sets, config, train=args.data, test="val")
    return {
        "oa": {str(arm.ipc): list(arm.oa_runs) for arm in result.arms if arm.arm == "set"},
        "random": {str(arm.ipc): list(arm.oa_runs) for arm in result.arms if arm.arm == "random"},
    }


def against_pooled(arms: dict[str, Any]) -> dict[str, Any]:
    """Ratios of mean accuracies to the pooled arm, and whether 0.95 is met; pair i has student seed i in all arms."""
    pooled = arms["pooled"]["oa"] if "pooled" in arms else {}
    return {
        name: {
            ipc: {"ratio": round(sum(arm["oa"][ipc]) / sum(runs), 4)}
            | {"at_least_0.95": asdict(ratio_verdict(arm["oa"][ipc], runs, 0.95))}
            for ipc, runs in pooled.items()
        }
        for name, arm in arms.items()
        if name != "pooled"
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--base", default="nano", help="best a base whose decoder was trained on such images")
    parser.add_argument("--judges", type=Path, help="a finished run on the same data and base")
    parser.add_argument("--val-per-class", type=int)
    parser.add_argument("--resolution", type=int)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--skew", type=float, default=0.3)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--batch", type=int, default=32, help="batch of the pooled arm, and of all sites together")
    parser.add_argument("--peak-rate", type=float, default=4e-4)
    parser.add_argument("--ratio", type=float, default=50)
    parser.add_argument("--teacher-steps", type=int, default=1200)
    parser.add_argument("--arms", default="start,pooled,federated,compressed")
    parser.add_argument("--ipc", default="10")
    parser.add_argument("--recipe", default="quick", help="of the students")
    parser.add_argument("--sets", type=int, default=2, help="generation seeds")
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--members", type=int, default=500, help="most images of a site in the membership test")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.batch % args.clients or not set(args.arms.split(",")) <= set(ARMS):
        parser.error(f"--batch must be a multiple of --clients, --arms of {', '.join(ARMS)}")
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    scenes, data = read_all(args, config_of(args), load_base(args.base))
    rows = shared_out(data[0].labels.numpy(), args.clients, args.skew, args.seed)
    held = np.arange(len(data[1].labels))  # only for losses in the log, so divided evenly
    sites = [(only(data[0], own), only(data[1], held[number :: args.clients])) for number, own in enumerate(rows)]
    counts = [np.bincount(site[0].labels.numpy(), minlength=len(scenes.train.classes)).tolist() for site in sites]
    result: dict[str, Any] = {
        "settings": {name: value for name, value in vars(args).items() if isinstance(value, int | float)},
        "data": args.data.name if args.data.name != "train" else args.data.parent.name,
        "images_by_site_and_class": counts,
        "arms": {},
    }
    for name in args.arms.split(","):
        run = run_of(name, args, scenes, data, sites)
        figures = json.loads((run / "figures.json").read_text(encoding="utf-8")) | judged(name, args, run)
        figures["membership"] = membership(run, scenes.train.classes, sites, data[1], args.members)
        for kind in ("sent_bytes", "returned_bytes", "dense_bytes"):
            figures[kind] = sum(entry.get(kind, 0) for entry in figures["log"])
        result["arms"][name] = figures
        result["against_pooled"] = against_pooled(result["arms"])
    tell(result, args.out)


if __name__ == "__main__":
    main()
