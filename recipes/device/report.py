"""Write what comes back from the device machine: light states, each small enough for one file, and report.json.

    python recipes/device/report.py --state STATE --out $OUT --result result.json --log train.log --seconds 512

A light state has no optimiser state, so training that continues from it starts a new one with a second warm-up. The
denoiser's state holds only the averaged weights, in float16 (as the base is saved); training continues from the
average. The VAE is in float16 too if its stage is finished, else in float32.
"""

import argparse
import json
import platform
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

from dpd_train.compute import load_state, prefixed, save_state, without_prefix

LIMIT = 16 * 2**20  # bytes in one returned file
STATES = ("autoencoder", "decoder", "denoiser")


def light(name: str, tensors: dict[str, torch.Tensor], meta: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The part of a state that travels."""
    if name == "denoiser":
        return _half(prefixed("ema", without_prefix("ema", tensors)))
    networks = prefixed("vae", without_prefix("vae", tensors))
    if meta["step"] == meta.get("steps"):
        return _half(networks)
    return networks


def _half(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}


def write_light_states(state: Path, out: Path) -> dict[str, Any]:
    """Write light copies of all states, and return their metadata."""
    metas = {}
    for name in STATES:
        if (state / f"{name}.safetensors").exists():
            tensors, metas[name] = load_state(state / f"{name}.safetensors")
            save_state(out / f"{name}.safetensors", light(name, tensors, metas[name]), metas[name])
    for perceptual in state.glob("perceptual[0-9].safetensors"):
        (out / perceptual.name).write_bytes(perceptual.read_bytes())
    for path in out.glob("*.safetensors"):
        if path.stat().st_size > LIMIT:
            print(f"{path.name} has {path.stat().st_size} bytes: too large to be returned")
    return metas


def hardware() -> dict[str, Any]:
    """The hardware as nvidia-smi reports it; clocks and memory are only read."""
    query = "--query-gpu=name,driver_version,memory.total,clocks.sm,power.draw,temperature.gpu"
    try:
        said = subprocess.run(["nvidia-smi", query, "--format=csv"], capture_output=True, text=True, timeout=60)
        gpu = said.stdout.strip().splitlines()
    except (OSError, subprocess.TimeoutExpired):
        gpu = []
    return {"gpu": gpu, "machine": platform.machine(), "python": platform.python_version(), "torch": torch.__version__}


def read_result(path: Path) -> dict[str, Any]:
    """The JSON object that the command printed, or its last output if there is none."""
    text = path.read_text(errors="replace") if path.exists() else ""
    try:
        return dict(json.loads(text))
    except ValueError:
        return {"failed": text[-2000:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--result", type=Path, required=True, help="output of dpd pretrain --json")
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--seconds", type=int, required=True)
    args = parser.parse_args()
    result = read_result(args.result)
    log = args.log.read_text(errors="replace") if args.log.exists() else ""
    report = {
        "date": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "hardware": hardware(),
        "seconds": args.seconds,
        "states": write_light_states(args.state, args.out),
        "autoencoder_validation": re.findall(r"step \d+ validation \{.*\}", log)[-8:],
        "result": result,
    }
    (args.out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({"states": {name: meta["step"] for name, meta in report["states"].items()}, "result": result}))


if __name__ == "__main__":
    main()
