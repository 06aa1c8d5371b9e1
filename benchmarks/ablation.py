"""Measure each ingredient of the method: classification consistency, prototypes, aggregated prompts.

    python benchmarks/ablation.py ../shared/data/eurosat_rgb/train --val-per-class 100 --steps 600 --lambda-cls 0.1 \
        --work /var/tmp/ablation --out ablation.json

First the unchanged base and two fine-tunings with the same number of steps, without and with the consistency loss,
become bundles whose prompts name only the class and which use no prototypes. Then prototypes and aggregated prompts are
added in turn, and at the end the paper's pull on z_t replaces ours on ẑ0. Each variant's sets (generation seed i for
pair i) are evaluated as `dpd evaluate` does, on the validation part unless --test names a folder, and by one teacher
for all. Finished parts in --work are reused.
"""

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from agreement import agreement

from dpd_eval import EvaluateConfig, evaluate
from dpd_eval.statistics import paired_difference
from dpd_export import ExportOptions, export_run
from dpd_runtime import load_bundle
from dpd_runtime.sampling.sampler import DEFAULT_SAMPLER
from dpd_train.captions.attributes import caption
from dpd_train.images import read_scenes

# name: consistency, extra steps, prototypes, aggregated prompts
VARIANTS = {
    "base as it is": (False, False, "", False),
    "fine-tuned": (False, True, "", False),
    "+ classification consistency": (True, True, "", False),
    "+ prototypes": (True, True, "prototypes", False),
    "+ aggregated prompts": (True, True, "prototypes", True),
    "the paper's pull": (True, True, "paper", True),
}
PULLS: dict[str, dict[str, Any]] = {
    "": {"prototype_scale": 0.0},
    "prototypes": {},
    "paper": {"prototype_scale": 0.0, "prototype_step": 1.0, "prototype_until": 0.8},
}
"""What replaces the default sampler's pull towards prototypes."""


def dpd(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "dpd_cli", *map(str, arguments)], check=True)


def trained(args: argparse.Namespace, consistency: bool, steps: bool) -> Path:
    """A run directory. All runs share the classifiers of the first one, or of --judges."""
    name = f"run-{'consistent' if consistency else 'plain' if steps else 'base'}"
    out: Path = args.work / name
    if not (out / "run.json").exists():
        shutil.rmtree(out, ignore_errors=True)
        options = ["--base", args.base, "--steps", args.steps if steps else 0, "--teacher-steps", args.teacher_steps]
        options += ["--peak-rate", args.peak_rate, "--prototypes", "centroid", "--no-tune-vae"]
        if args.val_per_class is not None:
            options += ["--val-per-class", args.val_per_class, "--split", "names"]
        if args.resolution is not None:
            options += ["--resolution", args.resolution]
        if consistency:
            options += ["--lambda-cls", args.lambda_cls]
        command = ["train", args.data, "--out", out, "--threads", 1, *options]
        first: Path | None = args.judges
        if first is not None:  # an unfinished run continues with the classifiers in its folder
            dpd(*command, "--max-minutes", 0)
            for part in ("classifier", "latent_classifier"):
                shutil.copytree(first / part, out / part, dirs_exist_ok=True)
            command.append("--resume")
        dpd(*command)
    args.judges = args.judges or out
    return out


def with_class_prompts(run: Path, out: Path) -> Path:
    """A copy of `run` whose prompts name only the class."""
    if not out.exists():
        shutil.copytree(run, out)
        table = json.loads((out / "classes.json").read_text(encoding="utf-8"))
        table["prompts"] = [caption(scene["name"], ()) for scene in table["classes"]]
        for row, scene in enumerate(table["classes"]):
            scene["prompt_rows"] = [row] * len(scene["prompt_rows"])
        (out / "classes.json").write_text(json.dumps(table), encoding="utf-8")
    return out


def bundle_of(args: argparse.Namespace, name: str) -> Path:
    consistency, steps, prototypes, prompts = VARIANTS[name]
    run = trained(args, consistency, steps)
    out: Path = args.work / f"{run.name}{f'-{prototypes}' if prototypes else ''}{'-prompts' if prompts else ''}.dpd"
    if not out.exists():
        source = run if prompts else with_class_prompts(run, args.work / f"{run.name}-named")
        guidance = tuple(replace(block, **PULLS[prototypes]) for block in DEFAULT_SAMPLER.guidance)
        sampler = replace(DEFAULT_SAMPLER, guidance=guidance)
        export_run(source, out, ExportOptions(name="ablation", sampler=sampler, allow_weak_prototypes=True))
    return out


def judged(args: argparse.Namespace, name: str) -> dict[str, Any]:
    bundle, ipcs = bundle_of(args, name), [int(part) for part in args.ipc.split(",")]
    sets = [args.work / f"{bundle.stem}-set{seed}" for seed in range(args.sets)]
    for seed, folder in enumerate(sets):
        if not (folder / "dataset.json").exists():
            dpd("generate", bundle, "--ipc", max(ipcs), "--seed", seed, "--out", folder)
    config = EvaluateConfig(
        ipc=tuple(ipcs), pairs=args.pairs, val_per_class=args.val_per_class, split="names", resolution=args.resolution
    )
    result = evaluate(sets, config, train=args.data, test="val" if args.test == "val" else Path(args.test))
    shares = agreement(load_bundle(bundle), read_scenes(sets[0], part="all"))
    return {
        "teacher_agreement": sum(shares.values()) / len(shares),
        "teacher_agreement_by_class": shares,
        "oa": {str(arm.ipc): list(arm.oa_runs) for arm in result.arms if arm.arm == "set"},
        "random": {str(arm.ipc): list(arm.oa_runs) for arm in result.arms if arm.arm == "random"},
        "against_random": {str(d.ipc): asdict(d.difference) | {"ratio": d.ratio} for d in result.differences},
        "metrics": [asdict(row) for row in result.metrics if row.arm == "set"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--test", default="val")
    parser.add_argument("--base", default="nano")
    parser.add_argument("--val-per-class", type=int)
    parser.add_argument("--resolution", type=int)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--peak-rate", type=float, default=1e-4)
    parser.add_argument("--teacher-steps", type=int, default=1200)
    parser.add_argument("--judges", type=Path, help="a finished run on the same data and base")
    parser.add_argument("--lambda-cls", type=float, default=0.1)
    parser.add_argument("--ipc", default="10,50")
    parser.add_argument("--sets", type=int, default=1, help="generation seeds")
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    rows: dict[str, Any] = {}
    for name in args.variants.split(","):
        rows[name] = judged(args, name)
        previous = list(rows)[-2:-1]
        rows[name]["against_previous"] = {
            size: asdict(paired_difference(runs, rows[before]["oa"][size]))
            for before in previous
            for size, runs in rows[name]["oa"].items()
        }
        args.out.write_text(json.dumps({"tested_on": args.test, "variants": rows}, indent=1) + "\n", encoding="utf-8")
        means = {size: round(sum(runs) / len(runs), 4) for size, runs in rows[name]["oa"].items()}
        print(f"{name}: OA {means}, teacher {rows[name]['teacher_agreement']:.3f}", flush=True)


if __name__ == "__main__":
    main()
