"""Check that `dpd generate` gives the same set after kill -9 at any moment.

    python recipes/kills.py --kills 20 --seed 0 --out kills.json

An undisturbed run gives the set hash, the files and the time T. Each kill uses a new folder: it starts `dpd generate`
in a new process, sends SIGKILL after a random time, uniform in 0 … T, runs the same command again, and compares the
hash and every file. A run that ended before its kill is not counted and is repeated with another time.
"""

import argparse
import hashlib
import json
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PACKED = re.compile(r"\.(tar|npz|parquet)(\.[0-9a-f]{16})?\.partial$")


def command(options: list[str], out: Path) -> list[str]:
    return [sys.executable, "-m", "dpd_cli", "generate", *options, "--out", str(out), "--json"]


def run(options: list[str], out: Path) -> tuple[dict[str, Any], float]:
    """Run the command; return its JSON and its seconds.

    Raises:
        SystemExit: it failed; the message has its output.
    """
    begun = time.monotonic()
    done = subprocess.run(command(options, out), capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command(options, out))}\nexit code {done.returncode}: {done.stderr.strip()}")
    return dict(json.loads(done.stdout)), time.monotonic() - begun


def contents(out: Path) -> dict[str, str]:
    """sha256 of each file, by path."""
    paths = (path for path in sorted(out.rglob("*")) if path.is_file())
    return {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def kill_once(options: list[str], out: Path, delay: float) -> dict[str, Any] | None:
    """What the kill left, or None if the run had ended before it."""
    process = subprocess.Popen(command(options, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        code = process.wait(timeout=delay)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        code = process.wait()
    if code != -signal.SIGKILL:
        return None
    files = contents(out) if out.exists() else {}
    return {
        "seconds": round(delay, 3),
        "images": sum(name.endswith(".png") and "/" in name for name in files),
        "packing": any(PACKED.search(name) for name in files),
        "files": len(files),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="seed of the times; the images have --seed 0")
    parser.add_argument("--bundle", type=Path, help="default: the embedded bundle")
    parser.add_argument("--ipc", type=int, default=20)
    parser.add_argument("--steps", type=int, default=2, help="few steps, so that files are written often")
    parser.add_argument("--candidates", type=int, default=1)
    parser.add_argument("--classes", default="Forest,River,SeaLake")
    parser.add_argument("--format", default="imagefolder")
    parser.add_argument(
        "--folder", type=Path, help="parent of the working folder; default: the system's temporary folder"
    )
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    options = [str(args.bundle)] if args.bundle else []
    for name in ("ipc", "steps", "candidates", "classes", "format"):
        options += [f"--{name}", str(getattr(args, name))]
    times = random.Random(args.seed)
    with tempfile.TemporaryDirectory(prefix="dpd-kills-", dir=args.folder) as folder:
        work = Path(folder)
        whole, wall = run(options, work / "whole")
        expected = contents(work / "whole")
        kills: list[dict[str, Any]] = []
        tries = 0
        while len(kills) < args.kills:
            tries += 1
            if tries > 10 * args.kills:
                sys.exit("runs end before they are killed: --ipc is too small")
            out = work / str(tries)
            kill = kill_once(options, out, times.uniform(0, wall))
            if kill is not None:
                again, seconds = run(options, out)
                kill |= {
                    "same_hash": again["set_hash"] == whole["set_hash"],
                    "same_files": contents(out) == expected,
                    "seconds_to_recover": round(seconds, 3),
                }
                kills.append(kill)
                print(f"{len(kills)}/{args.kills}: {json.dumps(kill)}", file=sys.stderr, flush=True)
            shutil.rmtree(out, ignore_errors=True)
    recovered = sum(kill["same_hash"] and kill["same_files"] for kill in kills)
    result = {
        "options": [option for option in options if option != str(args.bundle)],
        "seed": args.seed,
        "set_hash": whole["set_hash"],
        "images": whole["images"],
        "seconds_undisturbed": round(wall, 3),
        "kills": len(kills),
        "recovered": recovered,
        "killed_while_images_were_written": sum(0 < kill["images"] < whole["images"] for kill in kills),
        "median_seconds_to_recover": statistics.median(kill["seconds_to_recover"] for kill in kills),
        "points": kills,
    }
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in result.items() if key != "points"}))
    sys.exit(recovered != len(kills))


if __name__ == "__main__":
    main()
