"""Measure how fast a bundle of 2 GB is verified before any graph is loaded, and how much memory this takes.

    python benchmarks/verify_speed.py > benchmarks/results/verify_speed.json

Opens the embedded bundle with random bytes added: as a weights file (copied, then hashed), as an engine (hashed in
pieces), and as an encrypted weights file. Each is opened in a new process that has read the file before, so that the
disk does not count. Reports wall time and CPU time, which other processes disturb less, as the best of `--repeats`.
Peak memory includes mapped pages of the file, which the system can drop.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dpd_runtime import embedded_bundle, load_bundle
from dpd_runtime.sealing.encrypt import encrypt_bundle
from dpd_runtime.sealing.reseal import write_changed

KEY = bytes(range(32))
PIECE = 2**24
OPEN = """
import json, sys, time
from pathlib import Path
from dpd_runtime.bundle.bundle import load_bundle
key = bytes.fromhex(sys.argv[2]) or None
with open(sys.argv[1], "rb") as file:
    while file.read(2**24):
        pass
def peak():  # not ru_maxrss, which begins with what the starting process held
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
before = peak()
wall, cpu = time.perf_counter(), time.process_time()
bundle = load_bundle(sys.argv[1], key, trusted=())
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
size = sum(entry.bytes for entry in bundle.manifest.files.values())
print(json.dumps({"bytes": size, "seconds": wall, "cpu_seconds": cpu, "memory_before": before, "peak_memory": peak()}))
"""


def opened(path: Path, key: bytes, repeats: int) -> dict[str, Any]:
    """Open the bundle several times, each time in a new process; report the best."""
    command = [sys.executable, "-c", OPEN, str(path), key.hex()]
    runs = [
        json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(repeats)
    ]
    size = runs[0]["bytes"]
    wall, cpu = (min(run[name] for run in runs) for name in ("seconds", "cpu_seconds"))
    return {
        "bytes": size,
        "seconds": round(wall, 2),
        "cpu_seconds": round(cpu, 2),
        "megabytes_per_second": round(size / wall / 1e6),
        "megabytes_per_cpu_second": round(size / cpu / 1e6),
        "memory_before_mb": max(run["memory_before"] for run in runs) // 10**6,
        "peak_memory_mb": max(run["peak_memory"] for run in runs) // 10**6,
    }


def large_bundle(folder: Path, name: str, size: int) -> Path:
    """The embedded bundle with a file of random bytes in it."""
    source, out = folder / "random", folder / "large.dpd"
    with source.open("wb") as file:
        for start in range(0, size, PIECE):
            file.write(os.urandom(min(PIECE, size - start)))
    added: dict[str, bytes | Path] = {name: source}
    if name.endswith(".engine"):
        added[name.replace(".engine", ".json")] = b"{}"  # opening does not parse it
    write_changed(load_bundle(embedded_bundle()), out, added)
    source.unlink()
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=int, default=2 * 10**9)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    results = {}
    for kind, name in (("weights", "unet/model.onnx_data"), ("engine", "engines/tensorrt-rtx-89/unet.engine")):
        with TemporaryDirectory() as folder:
            path = large_bundle(Path(folder), name, options.bytes)
            print(f"{kind} …", file=sys.stderr, flush=True)
            results[kind] = opened(path, b"", options.repeats)
            if kind == "weights":
                sealed = path.with_suffix(".dpde")
                encrypt_bundle(path, sealed, KEY)
                path.unlink()
                print("encrypted …", file=sys.stderr, flush=True)
                results["encrypted"] = opened(sealed, KEY, options.repeats)
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "",
    )
    print(
        json.dumps(
            {"machine": platform.machine(), "cpu": cpu, "python": platform.python_version(), "results": results},
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
