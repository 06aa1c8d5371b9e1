"""What deserves the time of `dpd distill`: fine-tuning the UNet, or matching? Runs on AID's validation part.

    python benchmarks/distill_time.py /work/shared/data/aid10/train --state STATE

Every run has one thread. A run named "45 minutes" has the core-seconds of two cores in 45 minutes, stages before the
tuning included (about 1,270 s). Those stages are the same in all runs, so the first run makes them and the others
start from copies of its checkpoints. After a kill the same command continues. The results are in STATE/results.json.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

RUNS = {  # name: fine-tuning steps at 2.4 core-seconds, matching steps at 1.9
    "untuned_300": (0, 300),
    "untuned_45": (0, 2100),
    "tuned_45": (850, 1100),
    "untuned_90": (0, 5000),
    "tuned_90": (2000, 2500),
}
"""The first run has the matching steps of `dpd train`'s defaults; it takes 30 core-minutes."""
MADE_LATER = ("denoiser", "start", "matching")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--only", help="names of runs, separated by commas")
    given = parser.parse_args()
    given.state.mkdir(parents=True, exist_ok=True)
    results = given.state / "results.json"
    for name in given.only.split(",") if given.only else RUNS:
        found = json.loads(results.read_text()) if results.exists() else {}
        if name not in found:
            found[name] = judged(name, trained(name, given.data, given.state), given.data, given.state)
            results.write_text(json.dumps(found, indent=1) + "\n")
        print(name, json.dumps(found[name]), flush=True)


def dpd(state: Path, *arguments: object) -> None:
    """Run one command on one thread, with all caches under `state`."""
    places = {"XDG_CACHE_HOME": str(state / "cache"), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    print("$ dpd", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "dpd_cli", *map(str, arguments)], check=True, env=os.environ | places)


def trained(name: str, data: Path, state: Path) -> Path:
    """The finished run of this name."""
    run, (steps, matching) = state / name, RUNS[name]
    if (run / "run.json").exists():
        return run
    first = state / next(iter(RUNS))
    if not run.exists() and (first / "run.json").exists():
        begin_from(first, run, steps, matching)
    if (run / "checkpoints" / "config.json").exists():
        dpd(state, "train", "--resume", "--out", run, "--threads", 1, "--keep-checkpoints")
        return run
    options = ("--tune-vae", "--prototypes", "matched", "--ipc", 10, "--k-min", 10, "--peak-rate", 4e-4)
    own = ("--steps", steps, "--matching-steps", matching, "--cache-dir", state / "latents")
    dpd(state, "train", data, "--out", run, *options, *own, "--threads", 1, "--keep-checkpoints")
    return run


def begin_from(first: Path, run: Path, steps: int, matching: int) -> None:
    """Make an unfinished run with the classifiers, watchers and VAE decoder of `first`."""
    scratch = run.with_name(f".{run.name}")
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(first / "checkpoints", scratch / "checkpoints")
    for name in ("classifier", "latent_classifier"):
        shutil.copytree(first / name, scratch / name)
    for name in MADE_LATER:
        (scratch / "checkpoints" / f"{name}.safetensors").unlink(missing_ok=True)
    (scratch / "checkpoints" / "seconds.json").unlink(missing_ok=True)
    stored = scratch / "checkpoints" / "config.json"
    content = json.loads(stored.read_text())
    content["config"] |= {"steps": steps, "matching_steps": matching}
    stored.write_text(json.dumps(content))
    scratch.rename(run)


def judged(name: str, run: Path, data: Path, state: Path) -> dict[str, object]:
    """Accuracy of students on the run's ten images per class, beside random real ones, on the validation part."""
    bundle, made, table = state / f"{name}.dpd", state / f"{name}.set", state / f"{name}.evaluation.json"
    dpd(state, "export", run, "--out", bundle, "--overwrite")
    dpd(state, "generate", bundle, "--ipc", 10, "--out", made, "--overwrite")
    judges = ("--baselines", "random", "--pairs", 8, "--no-metrics")
    dpd(state, "evaluate", made, "--train", data, "--test", "val", "--ipc", 10, *judges, "--out", table)
    content, record = json.loads(table.read_text()), json.loads((run / "run.json").read_text())
    return {
        "steps": RUNS[name][0],
        "matching_steps": RUNS[name][1],
        "seconds": record["seconds"],
        "metrics": record["metrics"],
        "oa": {arm["arm"]: [arm["oa_mean"], arm["oa_std"]] for arm in content["arms"]},
        "differences": content["differences"],
    }


if __name__ == "__main__":
    main()
