"""`make fuzz`: thousands of hostile bundles, each in a process with bounded memory and time → a JSON tally.

    python -m tests.hostile.fuzz.campaign --examples 20000 --out recipes/results/fuzz.json [--bundle tiny.dpd]

A worker process takes some hundred examples and writes each one's kind before it begins; a worker that dies (a crash,
too much memory, too much time) is a finding. The same --seed gives the same bundles.
"""

import argparse
import collections
import datetime
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MEMORY_BYTES = 2 * 2**30
EXAMPLES_EACH = 250
WORKER_SECONDS = 1800
OFFERS = 100
"""Hostile graphs that OpenVINO is given directly."""


def work(bundle: Path, seed: int, examples: int, tally: Path) -> None:
    """One worker: lines of JSON, first what is tried, then how it ended."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as with_seed

    from tests.hostile.fuzz.hostile import Hostile, hostile
    from tests.hostile.fuzz.material import as_zip, read_material
    from tests.hostile.fuzz.verdict import generated, judged

    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (WORKER_SECONDS, WORKER_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    material = read_material(bundle)
    with tempfile.TemporaryDirectory() as folder:
        untouched = generated(as_zip(Path(folder), material.sealed()), Path(folder, "out"))

    with tally.open("a", encoding="utf-8") as lines:

        @with_seed(seed)
        @settings(
            max_examples=examples,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(hostile(material))
        def one(case: Hostile) -> None:
            kind, store = case
            with tempfile.TemporaryDirectory() as folder:
                try:
                    path = store(Path(folder))
                except (OSError, ValueError):  # no file can have that name
                    return
                print(json.dumps({"kind": kind}), file=lines, flush=True)
                found = judged(path, Path(folder), untouched)
                said = {
                    "outcome": found.outcome,
                    "good": found.good,
                    "said": found.said[:300],
                    "cpu_seconds": round(found.cpu_seconds, 3),
                    "peak_mb": round(found.peak_mb),
                }
                print(json.dumps(said), file=lines, flush=True)

        one()


def run(bundle: Path, examples: int, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(what each example ended as, workers that died)."""
    results: list[dict[str, Any]] = []
    deaths: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        number = 0
        while len(results) < examples:
            tally = Path(folder, f"{number}.jsonl")
            part = min(EXAMPLES_EACH, examples - len(results))
            call = f"work(Path({str(bundle)!r}), {seed + number}, {part}, Path({str(tally)!r}))"
            code = f"from tests.hostile.fuzz.campaign import *; {call}"
            done = subprocess.run(
                [sys.executable, "-c", code],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
                stderr=subprocess.PIPE,
                text=True,
                timeout=3 * WORKER_SECONDS,
                check=False,
            )
            lines = (
                [json.loads(line) for line in tally.read_text(encoding="utf-8").splitlines()] if tally.exists() else []
            )
            results += [a | b for a, b in zip(lines[::2], lines[1::2], strict=False)]
            if done.returncode != 0:
                last = lines[-1] if len(lines) % 2 else {}
                deaths.append({"seed": seed + number, "exit": done.returncode, **last, "said": done.stderr[-300:]})
                if not lines:
                    raise SystemExit(f"a worker made nothing: {done.stderr}")
            number += 1
            print(f"{len(results)} of {examples}, {len(deaths)} workers died", file=sys.stderr)
    return results, deaths


LIMITED = ("bash", "-c", 'ulimit -v 8000000 -t 60; exec "$@"', "-")
OFFERED = """
import sys
import numpy as np
from pathlib import Path
from dpd_runtime.engines import Provider
from dpd_runtime.sessions import OpenVinoEngine
engine = OpenVinoEngine(Path(sys.argv[1]).read_bytes(), Provider("openvino", ""), 1)
shape = tuple(map(int, sys.argv[2].split(",")))
inputs = {"sample": np.ones(shape, np.float32), "timestep": np.array(500), "latent_sample": np.ones(shape, np.float32)}
inputs["encoder_hidden_states"] = np.ones(tuple(map(int, sys.argv[3].split(","))), np.float32)
engine.run(**{end.any_name: inputs[end.any_name] for end in engine._request.model_inputs})
"""


def offered_to_openvino(bundle: Path, count: int, seed: int, **changed: Any) -> dict[str, int]:
    """How hostile graphs end that OpenVINO is given without any check: a control that they are hostile.

    Args:
        changed: arguments of `hostile_graphs`.

    Returns:
        How many ended in which way: "SIGSEGV", …, "refused by OpenVINO", "ran".
    """
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as with_seed

    from dpd_runtime import load_bundle
    from tests.hostile.fuzz.graph_mutations import GRAPHS, hostile_graphs
    from tests.hostile.fuzz.material import Material, read_material

    material, opened, ends = read_material(bundle), load_bundle(bundle), collections.Counter[str]()
    latents = ",".join(map(str, (2, *opened.manifest.latent_shape)))
    prompts = ",".join(map(str, (2, *opened.empty_embedding.shape)))

    @with_seed(seed)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(hostile_graphs(material, **changed))
    def one(made: Material) -> None:
        (name,) = (name for name in GRAPHS if made.files[name] != material.files[name])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.onnx")
            path.write_bytes(made.files[name])
            done = subprocess.run(
                [*LIMITED, sys.executable, "-c", OFFERED, str(path), latents, prompts],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
                capture_output=True,
                check=False,
            )
        died = signal.Signals(-done.returncode).name if done.returncode < 0 else ""
        ends[died or ("refused by OpenVINO" if done.returncode else "ran")] += 1

    one()
    return dict(ends)


def summary(results: list[dict[str, Any]], deaths: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    from dpd_runtime.versions import versions

    by_kind: dict[str, dict[str, int]] = collections.defaultdict(lambda: collections.defaultdict(int))
    for found in results:
        by_kind[found["kind"]][found["outcome"]] += 1
    wrong = [found for found in results if not found["good"]]
    slowest = sorted((found["cpu_seconds"] for found in results), reverse=True)
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": f"{platform.machine()}, one thread, {MEMORY_BYTES // 2**30} GB of memory allowed",
        "versions": versions(),
        "examples": len(results),
        "wall_seconds": round(seconds),
        "outcomes": dict(collections.Counter(found["outcome"] for found in results).most_common()),
        "kinds": {kind: dict(sorted(found.items())) for kind, found in sorted(by_kind.items())},
        "cpu_seconds": {"mean": round(sum(slowest) / len(slowest), 3), "largest": slowest[0]},
        "largest_peak_mb": max(found["peak_mb"] for found in results),
        "workers_died": deaths,
        "wrong": wrong[:50],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bundle", type=Path, help="A tiny bundle; without it one is trained and exported (a minute).")
    parser.add_argument("--out", type=Path, default=Path("recipes/results/fuzz.json"))
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        bundle = options.bundle or tiny_bundle(Path(folder))
        results, deaths = run(bundle.resolve(), options.examples, options.seed)
        offered = offered_to_openvino(bundle.resolve(), OFFERS, options.seed)
    found = summary(results, deaths, time.monotonic() - started) | {"seed": options.seed, "openvino": offered}
    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found["outcomes"]))
    sys.exit(1 if found["wrong"] or deaths else 0)


def tiny_bundle(folder: Path) -> Path:
    """In float32, from a run on drawn scenes."""
    from dpd_export import ExportOptions, export_run
    from tests.tiny import tiny_run

    export_run(tiny_run(folder), folder / "tiny.dpd", ExportOptions(name="tiny", precision="fp32"))
    return folder / "tiny.dpd"


if __name__ == "__main__":
    main()
