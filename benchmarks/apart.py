"""Measure what it costs that an unsigned bundle's graphs run in a process of their own.

    python benchmarks/apart.py --out benchmarks/results/apart.json

Two runs of one bundle, unsigned and as a site sees it that trusts its signature: the seconds of a whole process that
makes one image a class, and the seconds of each block of ten images, decoded and sampled, made in turn by both.
"""

import argparse
import datetime
import json
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.result_file import tell
from dpd_runtime import Bundle, embedded_bundle, generate, load_bundle
from dpd_runtime.bundle.signature import Signature
from dpd_runtime.generation.generate import Generation, resolve_sampler
from dpd_runtime.machine.versions import processor, versions
from dpd_runtime.sealing.reseal import write_changed

TRUSTED = Signature("0" * 32, "this benchmark")
START = """
import sys
from dataclasses import replace
from pathlib import Path
from benchmarks.apart import TRUSTED
from dpd_runtime import generate, load_bundle
bundle = load_bundle(sys.argv[1])
bundle = replace(bundle, signature=TRUSTED) if sys.argv[2] == "trusted" else bundle
images = [*generate(bundle, ipc=1, provider="cpu")]
def peak(pid):
    return int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0]) // 1024
print(peak("self") + (0 if bundle.trusted else peak(bundle.host._process.pid)))
"""


def starts(path: Path, repeats: int) -> dict[str, Any]:
    """Seconds of whole processes, in turn, and the memory of both processes together."""
    seconds: dict[str, list[float]] = {"trusted": [], "unsigned": []}
    peaks: dict[str, int] = {}
    for _ in range(repeats + 1):  # the first pair asks for the golden images, and reads all files from the disk
        for kind, found in seconds.items():
            begun = time.perf_counter()
            command = [sys.executable, "-c", START, str(path), kind]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found.append(time.perf_counter() - begun)
            peaks[kind] = int(done.stdout)
    medians = {kind: round(statistics.median(found[1:]), 2) for kind, found in seconds.items()}
    more = statistics.median(b - a for a, b in zip(*(found[1:] for found in seconds.values()), strict=True))
    return {"seconds": medians, "more_seconds": round(more, 2), "peak_mb": peaks, "pairs": repeats}


def blocks(bundle: Bundle, pairs: int, **asked: Any) -> dict[str, Any]:
    """Seconds of a block, made in turn by both, and how much longer the unsigned one takes."""
    sampler = resolve_sampler(bundle.manifest.sampler, **asked)
    both: dict[str, Generation] = {
        kind: generate(one, ipc=10, classes=("Forest",), sampler=sampler, provider="cpu")
        for kind, one in (("trusted", replace(bundle, signature=TRUSTED)), ("unsigned", bundle))
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in both}
    for _ in range(pairs + 1):
        for kind, generation in both.items():
            (block,) = generation.blocks()
            begun = time.perf_counter()
            generation.compute(block)
            seconds[kind].append(time.perf_counter() - begun)
    ratios = [b / a for a, b in zip(*(found[1:] for found in seconds.values()), strict=True)]
    return {
        "milliseconds": {kind: round(1000 * statistics.median(found[1:]), 1) for kind, found in seconds.items()},
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_quartiles": [round(found, 3) for found in statistics.quantiles(ratios, n=4)[::2]],
        "pairs": pairs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        path = Path(folder, "own.dpd")
        write_changed(load_bundle(embedded_bundle()), path, {}, name="own")
        bundle = load_bundle(path)
        result = {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "hardware": processor(),
            "versions": versions(),
            "start": starts(path, args.repeats),
            "decoded": blocks(bundle, 10 * args.repeats),
            "sampled": blocks(bundle, args.repeats, steps=15),
        }
    tell(json.loads(json.dumps(result)), args.out)


if __name__ == "__main__":
    main()
