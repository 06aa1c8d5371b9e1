"""A base of Stable Diffusion's shape all the way: images, one step of LoRA, export, verification, one image."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

pytest.importorskip("torch")
from dpd_train.drawn_scenes import write_scenes
from tests.sd_like import SD15, TINY, Sizes, sd_like

ONE_STEP = "--tune lora --steps 1 --batch 1 --set teacher_steps=1 --set latent_classifier_steps=1 --val-per-class 1"
COMMANDS = {
    "train": f"train scenes --base base --out run --resolution {{side}} {ONE_STEP} --prototypes none --no-tune-vae",
    "export": "export run --out site.dpd --precision fp16 --sampler steps=2,candidates=1",
    "verify": "verify site.dpd",
    "generate": "generate site.dpd --ipc 1 --classes Forest --out set",
}


def cost(arguments: str, folder: Path, environment: Mapping[str, str]) -> dict[str, float]:
    """Run `dpd ARGUMENTS` in a process of its own; return seconds and the peak of its memory."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "dpd_cli", *arguments.split()], cwd=folder, env=dict(environment))
    _, status, usage = os.wait4(process.pid, 0)  # RUSAGE_CHILDREN would be the peak of all so far
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, arguments
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"seconds": round(time.monotonic() - began, 1), "peak_gib": round(peak / 2**30, 2)}


@pytest.mark.parametrize(
    ("sizes", "side", "least"),
    [
        pytest.param(TINY, 32, 0.0, id="tiny", marks=pytest.mark.full),
        pytest.param(SD15, 256, 1e9, id="sd-1.5", marks=pytest.mark.large),
    ],
)
def test_from_images_to_one_image(
    tmp_path: Path, process_environment: Mapping[str, str], sizes: Sizes, side: int, least: float
) -> None:
    """What each command costs is printed; docs/results.md says what was seen."""
    sd_like(tmp_path / "base", sizes=sizes)
    write_scenes(tmp_path / "scenes", per_class=3, seed=0, resolution=side)
    costs = {
        name: cost(arguments.format(side=side), tmp_path, process_environment) for name, arguments in COMMANDS.items()
    }
    size = (tmp_path / "site.dpd").stat().st_size
    print(json.dumps(costs | {"bundle_gb": round(size / 1e9, 2)}))
    assert size > least  # of the smaller base's shape nothing is left
    assert len([*(tmp_path / "set" / "Forest").iterdir()]) == 1
