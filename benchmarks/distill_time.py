"""What deserves the time of `dpd distill`: fine-tuning the UNet, or matching? Runs on AID's validation part.

    dpd train AID/train --out STATE/first --ipc 10 --steps 2660 --keep-checkpoints
    python benchmarks/distill_time.py AID/train --state STATE [--only tuned_300,untuned_300]

All runs have the classifiers, watchers and the tuned VAE decoder of `first`, and one thread. Those named untuned begin
with the base's own UNet; it makes the images from which codes start. After a kill the same command continues. Each run
leaves STATE/NAME.json.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

RUNS = {  # name: fine-tuning steps, matching steps
    "tuned_300": (2660, 300),
    "untuned_300": (0, 300),
    "tuned_850": (2660, 850),
    "untuned_850": (0, 850),
    "tuned_2000": (2660, 2000),
    "untuned_2000": (0, 2000),
}
OF_TUNING = ("denoiser", "start", "matching")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--only", help="names of runs, separated by commas")
    given = parser.parse_args()
    for name in given.only.split(",") if given.only else RUNS:
        result = given.state / f"{name}.json"
        if not result.exists():
            found = judged(name, trained(name, given.state), given.data, given.state)
            result.write_text(json.dumps(found, indent=1) + "\n")
        print(name, result.read_text(), flush=True)


def dpd(state: Path, *arguments: object) -> None:
    """Run one command on one thread, with all caches under `state`."""
    places = {"XDG_CACHE_HOME": str(state / "cache"), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    print("$ dpd", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "dpd_cli", *map(str, arguments)], check=True, env=os.environ | places)


def trained(name: str, state: Path) -> Path:
    """The finished run of this name."""
    run = state / name
    if not run.exists():
        begin_from(state / "first", run, *RUNS[name])
    if not (run / "run.json").exists():
        dpd(state, "train", "--resume", "--out", run, "--threads", 1, "--keep-checkpoints")
    return run


def begin_from(first: Path, run: Path, steps: int, matching: int) -> None:
    """Make an unfinished run with the checkpoints of `first`, without the UNet and what it made if `steps` is 0."""
    scratch = run.with_name(f".{run.name}")
    shutil.rmtree(scratch, ignore_errors=True)
    for name in ("checkpoints", "classifier", "latent_classifier"):
        shutil.copytree(first / name, scratch / name)
    for name in OF_TUNING if steps == 0 else ("matching",):
        (scratch / "checkpoints" / f"{name}.safetensors").unlink(missing_ok=True)
    (scratch / "checkpoints" / "seconds.json").unlink(missing_ok=True)
    stored = scratch / "checkpoints" / "config.json"
    content = json.loads(stored.read_text())
    content["config"] |= {"steps": steps, "matching_steps": matching}
    stored.write_text(json.dumps(content))
    scratch.rename(run)


def judged(name: str, run: Path, data: Path, state: Path) -> dict[str, object]:
    """Accuracy of students on the run's ten images per class, beside random real ones, on the validation part."""
    bundle, made, table = state / f"{name}.dpd", state / f"{name}.set", state / f"{name}.table.json"
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
