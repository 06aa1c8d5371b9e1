"""`dpd demo`: train, export, generate and evaluate on drawn scenes."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from dpd_cli.options import Json, require_torch, under
from dpd_cli.terminal import Interrupted, print_json
from dpd_runtime.errors import InputError
from dpd_runtime.files import check_writable


def demo_command(
    out: Annotated[Path, under("Output", "A new folder for everything that the demo makes.")] = Path("demo"),
    per_class: Annotated[int, under("Data", "Drawn training scenes per class.", min=1)] = 120,
    steps: Annotated[int, under("Model", "Fine-tuning steps of the nano base.", min=0)] = 150,
    seed: Annotated[int, under("Data", "Random seed.", min=0)] = 0,
    json_output: Json = False,
) -> None:
    """Draw scenes, then train, export, generate and evaluate.

    It takes at most ten minutes on two cores.

    Examples:
        dpd demo
        dpd demo --out /tmp/demo --seed 3
    """
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise InputError(f"{out} is not empty; choose another --out")
    check_writable(out)
    require_torch("export", "cpu")
    from dpd_train.drawn_scenes import write_scenes

    started = time.monotonic()
    write_scenes(out / "scenes" / "train", per_class=per_class, seed=seed)
    write_scenes(out / "scenes" / "test", per_class=50, seed=seed + 1_000_000)
    print(f"drew {per_class} training and 50 test scenes per class in {out}/scenes", file=sys.stderr)

    def dpd(*arguments: str) -> dict[str, object]:
        """Run one command, as a user would type it."""
        print("$ dpd " + " ".join(arguments), file=sys.stderr)
        command = [sys.executable, "-P", "-m", "dpd_cli", *arguments, "--json"]
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        except KeyboardInterrupt:
            raise Interrupted("dpd demo with another --out") from None
        if done.returncode == Interrupted.exit_code:
            raise Interrupted("dpd demo with another --out")
        if done.returncode:
            raise typer.Exit(done.returncode)  # its error message is on stderr already
        content: dict[str, object] = json.loads(done.stdout)
        return content

    scenes, run, bundle, distilled = (str(out / name) for name in ("scenes", "run", "demo.dpd", "distilled"))
    short = ("--preset", "quick", "--set", "teacher_steps=300", "--set", "latent_classifier_steps=300", "--ipc", "10")
    dpd("train", scenes, "--out", run, "--steps", str(steps), "--seed", str(seed), *short)
    dpd("export", run, "--out", bundle, "--data-licence", "drawn by dpd demo")
    made = dpd("generate", bundle, "--ipc", "10", "--out", distilled, "--seed", str(seed))
    judged = ("--train", scenes, "--test", scenes, "--pairs", "2", "--jobs", "2", "--no-metrics")
    table = dpd("evaluate", distilled, *judged, "--out", str(out / "evaluation.json"))
    seconds = time.monotonic() - started
    if json_output:
        print_json({"out": str(out), "seconds": round(seconds, 1), "generate": made, "evaluate": table})
        return
    print(f"done in {seconds:.0f} s; look at {distilled}/contact_sheet.png")
    for arm in table["arms"]:  # type: ignore[attr-defined]
        print(f"  student on {arm['arm']:<8} {100 * arm['oa_mean']:.1f} % OA")
