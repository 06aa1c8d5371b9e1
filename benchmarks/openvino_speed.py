"""Compare `--provider openvino`, in float32 and in bfloat16, with ONNX Runtime: time, memory, and the images made.

    python benchmarks/openvino_speed.py                          # writes benchmarks/results/openvino.json
    python benchmarks/openvino_speed.py --accuracy onnxruntime.json bf16.json

Every figure is of a whole `dpd generate` in a process of its own that may use 1 or 2 cores: `--ipc 50` decoded, and
`--ipc 10` with all images sampled. The golden gate is passed before. The contenders take turns, `--repetitions` times.
PSNR is against ONNX Runtime's images. Where another candidate won, a sampled image is another image: such images are
counted, and the PSNR is also given without them. Needs an idle machine, some minutes, and the extra openvino.

What the students lose, in 8 pairs on the validation part (seed i of the sets with seed i of the student; repeat with
`--candidates 3` in all generate commands for sampled images):

    for i in 0 1 2 3 4 5 6 7; do
        dpd generate --ipc 10 --seed $i --provider cpu --out sets/onnxruntime-$i
        dpd generate --ipc 10 --seed $i --provider openvino --precision bf16 --out sets/bf16-$i
    done
    for name in onnxruntime bf16; do
        dpd evaluate sets/$name-[0-7] --train ../shared/data/eurosat_rgb/train --test val --val-per-class 100 \
            --ipc 10 --pairs 8 --baselines '' --out $name.json
    done
    python benchmarks/openvino_speed.py --accuracy onnxruntime.json bf16.json
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image
from result_file import tell

OUT = Path(__file__).parent / "results" / "openvino.json"
CONTENDERS = {
    "onnxruntime": ["--provider", "cpu"],
    "openvino": ["--provider", "openvino"],
    "openvino bf16": ["--provider", "openvino", "--precision", "bf16"],
}


def generated(options: list[str], cores: int, out: Path) -> dict[str, Any]:
    """Run `dpd generate` on so many cores: seconds, CPU seconds and peak memory of the process, and the set's hash."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < cores:
        sys.exit(f"{cores} cores are asked for; this process may use {len(allowed)}")
    command = [sys.executable, "-m", "dpd_cli", "generate", *options, "--out", str(out), "--json"]
    begun = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, allowed[:cores]),
    )
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with exit code {process.returncode}")
    return {
        "seconds": round(time.perf_counter() - begun, 2),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
        "peak_memory": used.ru_maxrss * 1024,
        "set_hash": json.loads(said)["set_hash"],
    }


def pixels_of(out: Path) -> tuple[np.ndarray[Any, Any], list[int]]:
    """All images of a set and the number of the candidate that each is."""
    lines = [json.loads(line) for line in (out / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    images = [np.asarray(Image.open(out / line["file_name"]), np.float64) for line in lines]
    return np.stack(images), [line["candidate"] for line in lines]


def nearness(out: Path, reference: Path) -> dict[str, Any]:
    """PSNR in dB of a set against another one: of all images together, and of those with the same candidate."""
    (found, chosen), (expected, usual) = pixels_of(out), pixels_of(reference)
    errors = np.square(found - expected).mean(axis=(1, 2, 3))
    same = np.array(chosen) == np.array(usual)

    def decibels(mse: float) -> float | None:
        return round(10 * float(np.log10(255**2 / mse)), 2) if mse else None

    return {
        "images": len(errors),
        "equal_images": int((errors == 0).sum()),
        "other_candidate": int((~same).sum()),
        "psnr_db": decibels(errors.mean()),
        "psnr_db_of_same_candidate": decibels(errors[same].mean()) if same.any() else None,
        "worst_psnr_db_of_same_candidate": decibels(errors[same].max()) if same.any() else None,
    }


def measured(kinds: dict[str, list[str]], args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    runs: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for repetition in range(args.repetitions):
        for kind, cores, name in product(kinds, args.threads, CONTENDERS):
            out = folder / f"{kind}-{cores}-{name.replace(' ', '-')}-{repetition}"
            done = generated([*kinds[kind], *CONTENDERS[name]], cores, out)
            runs.setdefault((kind, cores, name), []).append(done)
            print(
                f"{repetition + 1}/{args.repetitions} {kind}, {cores} threads, {name}: {done['seconds']} s", flush=True
            )
    found: dict[str, Any] = {kind: {str(cores): {} for cores in args.threads} for kind in kinds}
    for (kind, cores, name), done in runs.items():
        first = [folder / f"{kind}-{cores}-{one.replace(' ', '-')}-0" for one in (name, "onnxruntime")]
        found[kind][str(cores)][name] = {
            "seconds": statistics.median(run["seconds"] for run in done),
            "all_seconds": [run["seconds"] for run in done],
            "cpu_seconds": statistics.median(run["cpu_seconds"] for run in done),
            "peak_memory": max(run["peak_memory"] for run in done),
            "set_hashes": sorted({run["set_hash"] for run in done}),
            "against_onnxruntime": nearness(*first),
        }
    return found


def accuracy(files: list[Path]) -> None:
    """Print what the students of the second file lose against those of the first, pair by pair."""
    from dpd_eval.statistics import paired_difference

    first, second = (
        next(arm["oa_runs"] for arm in json.loads(file.read_text())["arms"] if arm["arm"] == "set") for file in files
    )
    difference = paired_difference(second, first)
    print(json.dumps({"first": first, "second": second, "second_minus_first": difference.__dict__}, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="default: the embedded one")
    parser.add_argument("--ipc", type=int, nargs=2, default=(50, 10), metavar=("DECODED", "SAMPLED"))
    parser.add_argument("--classes", help="default: all; one class for a quick try")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--accuracy", type=Path, nargs=2, help="two results of dpd evaluate, instead of measuring")
    args = parser.parse_args()
    if args.accuracy:
        accuracy(args.accuracy)
        return

    from dpd_runtime import load_bundle
    from dpd_runtime.checks.doctor import this_machine

    bundle, machine = load_bundle(args.bundle), this_machine()
    where = [] if args.bundle is None else [str(args.bundle.resolve())]
    where += [] if args.classes is None else ["--classes", args.classes]
    candidates = str(bundle.manifest.sampler.candidates)
    kinds = {
        "decoded": [*where, "--ipc", str(args.ipc[0])],
        "sampled": [*where, "--ipc", str(args.ipc[1]), "--candidates", candidates],  # its own; any option samples all
    }
    load = os.getloadavg()[0]
    with TemporaryDirectory(prefix="dpd-openvino-") as folder:
        for (kind, options), (name, provider) in product(kinds.items(), CONTENDERS.items()):
            one = [*options, *provider, "--ipc", "1", "--classes", bundle.classes[0].name]  # the golden gate asks once
            generated(one, 1, Path(folder) / f"gate-{kind}-{name.replace(' ', '-')}")
        found = measured(kinds, args, Path(folder))
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": " ".join(["python", "benchmarks/openvino_speed.py", *sys.argv[1:]]),
        "machine": {
            "processor": machine.processor,
            "cpu_flags": machine.cpu_flags,
            "cores": machine.usable_cores,
            "load_before": load,
            "environment": {name: value for name, value in os.environ.items() if name.endswith("_MAX_CPU_ISA")},
        },
        "versions": machine.versions,
        "bundle": {"name": bundle.manifest.name, "hash": bundle.hash, "precision": bundle.manifest.precision},
        "repetitions": args.repetitions,
        "results": found,
    }
    tell(result, args.out)


if __name__ == "__main__":
    main()
