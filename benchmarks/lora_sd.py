"""Measure `dpd train` on a base as large as Stable Diffusion 2.1: LoRA steps, checkpoint size, peak memory.

    python benchmarks/lora_sd.py ../shared/data/ucmerced/train /var/tmp/lora-sd --out lora_sd.json
    python benchmarks/lora_sd.py ../shared/data/ucmerced/train /var/tmp/lora-sd --small --resolution 128

The base has random weights. It is made once in the work folder (2.6 GB as float16), and two classes of eight images are
copied there. --max-minutes stops the command at its first checkpoint, as a user would; the memory is that process's
largest resident set. The second command is for trying the script.
"""

import argparse
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from export_sd import build
from result_file import tell

from dpd_train.compute.checkpoint import load_state
from dpd_train.compute.device import hardware

IMAGES = 8  # per class


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--max-minutes", type=float, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    base, run = args.work / "base", args.work / "run"
    if not (base / "pipeline" / "model_index.json").exists():
        build(base, args.small)
    data = args.work / "data"
    for source in sorted(args.data.iterdir())[:2]:
        (data / source.name).mkdir(parents=True, exist_ok=True)
        for image in sorted(source.iterdir())[:IMAGES]:
            shutil.copy(image, data / source.name)
    options = ["--resolution", args.resolution, "--batch", args.batch, "--tune", "lora", "--teacher-steps", 1]
    options += ["--latent-classifier-steps", 1, "--val-per-class", 2, "--steps", 1000]
    options += ["--max-minutes", args.max_minutes]
    command = ["train", data, "--base", base / "pipeline", "--out", run, *options]
    shutil.rmtree(run, ignore_errors=True)
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "dpd_cli", *map(str, command)]
    )  # its exit code says that it is not finished
    _, meta = load_state(run / "checkpoints" / "denoiser.safetensors")
    result = {
        "command": " ".join(map(str, ["dpd", *command])),
        "exit_code": done.returncode,
        "hardware": hardware(torch.device("cpu")),
        "seconds": round(time.perf_counter() - started),
        "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, 2),
        "steps": meta["step"],
        "checkpoint_mb": round((run / "checkpoints" / "denoiser.safetensors").stat().st_size / 1e6, 1),
    }
    tell(result, args.out)


if __name__ == "__main__":
    main()
