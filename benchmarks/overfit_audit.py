"""Check that the audit refuses two bundles: one whose base memorised 50 images, and one that contains real images.

    python benchmarks/overfit_audit.py ../shared/data/eurosat_rgb/train --work /tmp/overfit --out result.json

T: 5 training images of each class. H: 50 others of each class (see docs/reference/privacy.md).
  heart    `dpd train` for many steps without prototypes. Its validation part is T itself, on purpose: the validation
           loss never rises, so the training does not stop early. Must FAIL replication of generated images, and
           membership of the denoiser.
  medoid   no steps, `--prototypes medoid`, exported with `--allow-weak-prototypes`. Must FAIL replication of decoded
           prototypes.
Every stage is kept under --work: run the same command again to continue. Exit code 1 if one of the two does not FAIL.
"""

import argparse
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dpd_eval.audit.audit import audit
from dpd_export import ExportOptions, export_run
from dpd_train.config import TrainConfig
from dpd_train.train import train

EACH, OTHERS = 5, 50  # images per class in T and in H
MUST_FAIL = {
    "heart": ("replication, generated images", "membership of the denoiser"),
    "medoid": ("replication, decoded prototypes",),
}


def pick(data: Path, work: Path, seed: int) -> None:
    """Copy T to work/data/train and work/data/val, and H to work/holdout."""
    if (work / "holdout").exists():
        return
    shutil.rmtree(work / "data", ignore_errors=True)
    rng, draft = np.random.default_rng(seed), work / "holdout.part"
    shutil.rmtree(draft, ignore_errors=True)
    for folder in sorted(path for path in data.iterdir() if path.is_dir()):
        files = sorted(path for path in folder.iterdir() if path.is_file())
        chosen = [files[i] for i in rng.permutation(len(files))[: EACH + OTHERS]]
        for place, part in (("data/train", chosen[:EACH]), ("data/val", chosen[:EACH]), (draft.name, chosen[EACH:])):
            (work / place / folder.name).mkdir(parents=True)
            for path in part:
                shutil.copyfile(path, work / place / folder.name / path.name)
    draft.rename(work / "holdout")


def configs(steps: int, rate: float) -> dict[str, TrainConfig]:
    shared = TrainConfig(batch=8, teacher_steps=100, latent_classifier_steps=100, k_min=2, ipc=2, tune_vae=False)
    return {
        "heart": replace(shared, steps=steps, peak_rate=rate, prototypes="none", precision="fp32"),
        "medoid": replace(shared, steps=0, prototypes="medoid"),
    }


def audited(case: str, config: TrainConfig, work: Path, images: int) -> dict[str, Any]:
    """The audit's record of the bundle, from --work if it is there."""
    run, bundle, told = work / case, work / f"{case}.dpd", work / f"{case}.json"
    cache = work / "cache"
    if not told.exists():
        if not (run / "run.json").exists():
            train(work / "data", run, config, cache=cache, resume=True)
        if not bundle.exists():
            options = ExportOptions(precision="fp32", name=case, allow_weak_prototypes=case != "pooled")
            export_run(run, bundle, options)
        print(case, "audit", flush=True)
        found = audit(bundle, train=work / "data", holdout=work / "holdout", run=run, images=images, cache=cache)
        told.write_text(json.dumps(found.to_dict(), indent=1) + "\n", encoding="utf-8")
    content: dict[str, Any] = json.loads(told.read_text(encoding="utf-8"))
    return content


def refused(case: str, found: dict[str, Any]) -> dict[str, list[str]]:
    """The failed tests for each finding that is required."""
    failed = [test["name"] for test in found["tests"] if test["verdict"] == "FAIL"]
    return {what: [name for name in failed if name.startswith(what)] for what in MUST_FAIL[case]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a class-per-folder tree")
    parser.add_argument("--work", type=Path, required=True, help="private: holds real images and models of them")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of T and H")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True, mode=0o700)
    pick(given.data, given.work, given.seed)
    results, missed = {}, []
    for case, config in configs(given.steps, given.rate).items():
        found = audited(case, config, given.work, given.images)
        tests = refused(case, found)
        missed += [f"{case}: {what}" for what, names in tests.items() if not names]
        results[case] = {"must_fail": tests, **found}
        print(case, found["verdict"], json.dumps(tests), flush=True)
    content = {"steps": given.steps, "rate": given.rate, "missed": missed, "cases": results}
    given.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for line in missed:
        print(f"the audit did not refuse: {line}", file=sys.stderr)
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
