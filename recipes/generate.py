"""Compare dpd with diffusers, torch.compile and optimum: same weights, solver, steps, guidance and batch.

    python recipes/generate.py RUN/pipeline --bundle BUNDLE --optimum VENV/bin/python --out generate.json

A trusted key must have signed BUNDLE (`dpd keygen`, `dpd sign`; docs/guides/hand-over.md).

Every contender runs in its own process with the same number of threads. Cold starts come first, in turn and
`--repetitions` times: processes that end after the first evaluation of the UNet, then processes that end when their
first ten images, made in one batch, are written as PNG (for dpd a complete set with every file flushed). Then all stay
loaded and take turns at making ten images, in batches of 1 and of the bundle's size, after one warm-up round. Ratios
are of medians.
torch.compile compiles the UNet twice in its default mode: for the first batch, and for any batch size at the second
one. This takes 94 runs of g++, 20 minutes on two busy cores; with --kernels a later run only traces, 2 minutes. No
files are written in the timed rounds. dpd's time includes its judge, that of the pipelines the text encoder.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from result_file import tell

CHILD = Path(__file__).with_name("contenders.py")
NAMES = ("dpd", "diffusers", "torch.compile", "optimum")
IMAGES = 10


class Contender:
    """A running process.

    Raises:
        ChildProcessError: it ended; the message is its last line.
    """

    def __init__(self, command: list[str], threads: int, log: Path, kernels: Path | None = None) -> None:
        """Start the process.

        Args:
            kernels: folder where torch.compile keeps what it has compiled.
        """
        self._log = log
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        environment |= {"HF_HUB_OFFLINE": "1", "TORCHINDUCTOR_COMPILE_THREADS": str(threads)}
        if kernels is not None:
            environment["TORCHINDUCTOR_CACHE_DIR"] = str(kernels.resolve())
        begun = time.perf_counter()
        with log.open("wb") as said:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True, env=environment
            )
        self.versions = self._answer()["versions"]
        self.cold_seconds = time.perf_counter() - begun

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            said = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise ChildProcessError(said[-1] if said else f"exit code {self._process.returncode}")
        return dict(json.loads(line))

    def make(self, batch: int) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"batch": batch}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def summary(values: list[float]) -> dict[str, Any]:
    rounded = [round(value, 4) for value in values]
    return {"median": statistics.median(rounded), "low": min(rounded), "high": max(rounded), "all": rounded}


def cold_starts(
    commands: dict[str, list[str]], args: argparse.Namespace, log: Path, skipped: dict[str, str], *, save: bool
) -> Any:
    """Seconds from a process's start to its first answer; with `save`, until ten images are written."""
    found: dict[str, list[float]] = {name: [] for name in commands if name not in skipped}
    for repetition in range(args.repetitions + 1):  # the first fills the disk cache
        for name in list(found):
            with TemporaryDirectory(prefix="dpd-saved-") as folder:
                try:
                    contender = Contender(commands[name] + [f"--save={folder}"] * save, args.threads, log)
                except ChildProcessError as error:
                    skipped[name] = str(error)
                    del found[name]
                    continue
                contender.end()
                images = len(list(Path(folder).rglob("*[0-9].png")))
                if images != IMAGES * save:
                    sys.exit(f"{name} wrote {images} images")
            if repetition:
                found[name].append(contender.cold_seconds)
        print(f"{'first block' if save else 'cold start'} {repetition}/{args.repetitions}", file=sys.stderr, flush=True)
    return {name: summary(values) for name, values in found.items()}


def rounds(commands: dict[str, list[str]], args: argparse.Namespace, log: Path, skipped: dict[str, str]) -> Any:
    contenders: dict[str, Contender] = {}
    for name in commands:
        if name not in skipped:
            try:
                contenders[name] = Contender(commands[name], args.threads, log.with_suffix(f".{name}"), args.kernels)
            except ChildProcessError as error:
                skipped[name] = str(error)
    spent: dict[str, dict[int, list[float]]] = {name: {batch: [] for batch in args.batches} for name in contenders}
    peaks: dict[str, int] = {}
    for repetition in range(args.repetitions + 1):  # the first is a warm-up
        for batch in args.batches:
            for name in list(contenders):
                try:
                    answer = contenders[name].make(batch)
                except (ChildProcessError, BrokenPipeError) as error:
                    skipped[name] = str(error)
                    del contenders[name], spent[name]
                    continue
                peaks[name] = answer["peak_memory"]
                if repetition:
                    spent[name][batch].append(answer["seconds"])
        print(f"round {repetition}/{args.repetitions}", file=sys.stderr, flush=True)
    for contender in contenders.values():
        contender.end()
    return {
        name: {
            "versions": contenders[name].versions,
            "peak_memory": peaks[name],
            "seconds_for_10_images": {str(batch): summary(values) for batch, values in batches.items()},
            "images_per_second": {
                str(batch): round(IMAGES / statistics.median(values), 3) for batch, values in batches.items()
            },
        }
        for name, batches in spent.items()
    }


def ratios(timed: dict[str, Any], starts: dict[str, Any], batches: list[int]) -> dict[str, Any]:
    """dpd's speed as a multiple of each other contender's, and its memory and start time as a share of theirs.

    Args:
        starts: seconds of each contender, by kind of start.
    """
    if "dpd" not in timed:
        return {}
    own = timed["dpd"]
    return {
        name: {
            "speed": {
                str(batch): round(
                    other["seconds_for_10_images"][str(batch)]["median"]
                    / own["seconds_for_10_images"][str(batch)]["median"],
                    3,
                )
                for batch in batches
            },
            "peak_memory": round(own["peak_memory"] / other["peak_memory"], 3),
            **{
                what: round(cold["dpd"]["median"] / cold[name]["median"], 3) if name in cold else None
                for what, cold in starts.items()
            },
        }
        for name, other in timed.items()
        if name != "dpd"
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline", type=Path, help="diffusers layout: RUN/pipeline of a run")
    parser.add_argument("--bundle", type=Path, required=True, help="exported from that run with --precision fp32")
    parser.add_argument(
        "--optimum", type=Path, help="Python of an environment with optimum-onnx (tests/full/interop/run.sh)"
    )
    parser.add_argument(
        "--kernels",
        type=Path,
        help="folder that keeps torch.compile's kernels, so that only the first run waits for g++",
    )
    parser.add_argument("--skip", action="append", default=[], metavar="NAME=REASON", help="leave a contender out")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, help="threads of every contender; default: all usable cores")
    parser.add_argument("--steps", type=int, help="default: the bundle's")
    parser.add_argument("--guidance", type=float, default=1.5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()

    from dpd_runtime import load_bundle
    from dpd_runtime.doctor import this_machine
    from dpd_runtime.machine import usable_cores

    manifest = load_bundle(args.bundle).manifest
    args.threads = args.threads or usable_cores()
    args.steps = args.steps or manifest.sampler.steps
    args.batches = [1, manifest.sampler.compute_batch]
    if IMAGES % args.batches[1]:
        sys.exit(f"the bundle's batch is {args.batches[1]}, which does not divide {IMAGES}")
    skipped = dict((*entry.split("=", 1), "asked for")[:2] for entry in args.skip)
    if args.optimum is None:
        skipped.setdefault("optimum", "no --optimum: it needs an environment of its own")
    with TemporaryDirectory(prefix="dpd-generate-") as folder:
        opened = args.bundle.resolve()
        if opened.is_file():
            opened = Path(folder) / "bundle"
            with zipfile.ZipFile(args.bundle) as archive:
                archive.extractall(opened)
        options = [f"--{name}={getattr(args, name)}" for name in ("threads", "steps", "guidance")]
        options += [f"--pipeline={args.pipeline.resolve()}", f"--side={manifest.image_shape[0]}"]
        commands = {}
        for name in NAMES:
            python = str(args.optimum) if name == "optimum" else sys.executable
            where = opened if name == "optimum" else args.bundle.resolve()
            commands[name] = [python, str(CHILD), name, *options, f"--bundle={where}"]
        cold_commands = {name: command for name, command in commands.items() if name != "torch.compile"}
        log = Path(folder) / "log"
        cold = cold_starts(cold_commands, args, log, skipped, save=False)
        saved = cold_starts(cold_commands, args, log, skipped, save=True)
        timed = rounds(commands, args, log, skipped)
    machine = this_machine()
    result = {
        "bundle": manifest.name,
        "precision": manifest.precision,
        "solver": "dpm++2m",
        **{name: getattr(args, name) for name in ("steps", "guidance", "threads", "repetitions", "batches")},
        "machine": {"processor": machine.processor, "cores": machine.usable_cores, "load": os.getloadavg()[0]},
        "cold_start_seconds": cold,
        "first_block_seconds": saved,
        "contenders": timed,
        "skipped": skipped,
        "dpd_against": ratios(timed, {"cold_start": cold, "first_block": saved}, args.batches),
    }
    tell(result, args.out)


if __name__ == "__main__":
    main()
