"""What the step graph (step/model.onnx) would save on a CPU: CPU time of sampled `dpd generate` with three ways to
step.

    python benchmarks/step_graph.py --out benchmarks/results/step_graph.json

`numpy` is what the command does. `graph` runs the step graph by `session.run` in place of guidance, prototypes and
solver. `bound` runs it by IO binding, with all latents in OrtValues on "cpu" that the UNet's binding shares, so that
nothing is copied but the second half of a guided call's latents. One thread. Each run is a process of its own, and the
ways take turns: the smallest CPU time counts, because the machine may be shared. Everything runs outside the main
thread, so that `interruptible` starts no thread and the thread's own CPU clock sees each call; noise and files are made
in other threads, as in the command.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from result_file import tell

WAYS = ("numpy", "graph", "bound")
TIMINGS = 400


class Clock:
    """CPU seconds of one thread by span, without the spans inside."""

    def __init__(self) -> None:
        self.spans: dict[str, float] = defaultdict(float)
        self._open = ["the rest"]
        self._since = time.thread_time()

    def turn(self) -> None:
        now = time.thread_time()
        self.spans[self._open[-1]] += now - self._since
        self._since = now

    @contextmanager
    def span(self, name: str) -> Any:
        self.turn()
        self._open.append(name)
        try:
            yield
        finally:
            self.turn()
            self._open.pop()

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.span(name):
                return function(*args, **kwargs)

        return timed


class Timed:
    """An engine with a clock around its calls."""

    def __init__(self, engine: Any, clock: Clock, name: str) -> None:
        self.inside, self.run = engine, clock.around(name, engine.run)


def with_graph(session: Any, denoise: Any, noise: Any, prompts: Any, empty: Any, prototypes: Any, steps: Any,
               advance: Any, kind: Any, guidance: Any, step_noise: Any) -> Any:  # fmt: skip
    """`sample` with the step graph by `session.run`."""
    from dpd_runtime.sampling.step_table import COEFFICIENTS, OUTPUTS, TENSORS, step_table

    context = np.concatenate([prompts, np.broadcast_to(empty, prompts.shape)])
    table = step_table(steps, advance, kind, guidance, prototypes=True)
    latents, previous, older, fresh = noise, np.zeros_like(noise), np.zeros_like(noise), np.zeros_like(noise)
    for number, step in enumerate(steps):
        if guidance.guides(number, len(steps)):
            output = denoise(np.concatenate([latents, latents]), step.timestep, context)
            conditional, unconditional = np.split(output, 2)
        else:
            conditional = unconditional = denoise(latents, step.timestep, prompts)
        feeds = (latents, conditional, unconditional, prototypes, previous, older, fresh)
        inputs = dict(zip(TENSORS, feeds, strict=True)) | {COEFFICIENTS: table[number]}
        latents, original = session.run(list(OUTPUTS), inputs)
        previous, older = original, previous
    return latents


class Bound:
    """`sample` with UNet and step graph by IO binding. The buffers are made once."""

    def __init__(self, session: Any, unet: Any, clock: Clock, rows: int, shape: Any, context: Any) -> None:
        import onnxruntime

        from dpd_runtime.sampling.step_table import COEFFICIENTS, OUTPUTS, TENSORS

        def value(array: Any) -> Any:
            return onnxruntime.OrtValue.ortvalue_from_numpy(array)  # on a CPU it shares the array's memory

        self.session, self.unet, self.clock, self.rows = session, unet, clock, rows
        self.latents = np.zeros((2 * rows, *shape), np.float32)
        self.output = np.zeros((2 * rows, *shape), np.float32)
        self.context = np.zeros((2 * rows, *context), np.float32)
        self.moment = np.zeros((), np.int64)
        self.row = np.zeros(9, np.float32)
        self.prototypes = np.zeros((rows, *shape), np.float32)
        self.ring = [np.zeros((rows, *shape), np.float32) for _ in range(3)]
        self.next = np.zeros((rows, *shape), np.float32)
        zeros = np.zeros((rows, *shape), np.float32)
        self.calls = {}
        for count in (rows, 2 * rows):
            io = unet.io_binding()
            feeds = {"sample": self.latents, "encoder_hidden_states": self.context}
            for name, array in feeds.items():
                io.bind_ortvalue_input(name, value(array[:count]))
            io.bind_ortvalue_input("timestep", value(self.moment))
            io.bind_ortvalue_output("out_sample", value(self.output[:count]))
            self.calls[count] = io
        self.steps = {}
        for guided in (False, True):
            for turn in range(3):
                io = session.io_binding()
                conditional, unconditional = self.output[:rows], self.output[rows:] if guided else self.output[:rows]
                newest, previous, older = (self.ring[(turn - k) % 3] for k in range(3))
                feeds = (self.latents[:rows], conditional, unconditional, self.prototypes, previous, older, zeros)
                for name, array in zip(TENSORS, feeds, strict=True):
                    io.bind_ortvalue_input(name, value(array))
                io.bind_ortvalue_input(COEFFICIENTS, value(self.row))
                for name, array in zip(OUTPUTS, (self.next, newest), strict=True):
                    io.bind_ortvalue_output(name, value(array))
                self.steps[guided, turn] = io

    def sample(self, _denoise: Any, noise: Any, prompts: Any, empty: Any, prototypes: Any, steps: Any, advance: Any,
               kind: Any, guidance: Any, step_noise: Any) -> Any:  # fmt: skip
        from dpd_runtime.sampling.step_table import step_table

        rows = self.rows
        self.context[:rows], self.context[rows:] = prompts, empty
        self.prototypes[:], self.latents[:rows] = prototypes, noise
        self.ring[1][:] = self.ring[2][:] = 0
        table = step_table(steps, advance, kind, guidance, prototypes=True)
        for number, step in enumerate(steps):
            guided = guidance.guides(number, len(steps))
            if guided:
                self.latents[rows:] = self.latents[:rows]
            self.moment[...], self.row[:] = step.timestep, table[number]
            count = 2 * rows if guided else rows
            with self.clock.span("UNet"):
                self.unet.run_with_iobinding(self.calls[count])
            assert np.isfinite(self.output[:count]).all()
            self.session.run_with_iobinding(self.steps[guided, number % 3])
            self.latents[:rows] = self.next
        return self.latents[:rows].copy()


def opened(graph: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options)


def one(way: str, classes: tuple[str, ...] | None, ipc: int, found: dict[str, Any]) -> None:
    """One run, in this thread."""
    clock = Clock()
    import dpd_runtime.dataset.write as writing
    import dpd_runtime.generation.compute as compute
    import dpd_runtime.generation.decode as decoding
    from dpd_runtime import Generation, embedded_bundle, load_bundle, write_set
    from dpd_runtime.generation.generate import resolve_sampler
    from dpd_runtime.generation.networks import Networks
    from dpd_runtime.sampling.step_table import GRAPH

    stepping: Any = sys.modules["dpd_runtime.sampling.sample"]
    generating: Any = sys.modules[Generation.__module__]
    load, ahead, behind, sample = generating.load_networks, generating.ahead, writing.writing_behind, compute.sample
    beside: dict[str, float] = defaultdict(float)
    between = "between UNet calls: copies, loop, finite"

    def networks(*args: Any, **kwargs: Any) -> Networks:
        with clock.span("loading graphs"):
            real = load(*args, **kwargs)
        return Networks(
            *(Timed(getattr(real, part), clock, name) for part, name in
              (("unet", "UNet"), ("decoder", "decoder"), ("judge", "judge")))
        )  # fmt: skip

    def elsewhere(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            begun = time.thread_time()
            try:
                return function(*args)
            finally:
                beside[name] += time.thread_time() - begun

        return timed

    generating.load_networks = networks
    generating.ahead = lambda items, make: ahead(items, elsewhere("noise (beside)", make))
    writing.writing_behind = lambda write: behind(elsewhere("encoding and writing files (beside)", write))
    writing.complete = clock.around("last pass over the set", writing.complete)
    decoding.to_uint8 = clock.around("pixels", decoding.to_uint8)
    with clock.span("opening the bundle"):
        bundle = load_bundle(embedded_bundle())
    step, stores = opened(bundle.files[GRAPH]), {}
    if way == "numpy":
        stepping.classifier_free = clock.around("between: guidance", stepping.classifier_free)
        stepping.predicted_original = clock.around("between: predicted original", stepping.predicted_original)
        stepping.towards_prototype = clock.around("between: prototypes", stepping.towards_prototype)

        def chosen(*args: Any) -> Any:
            return sample(*args[:6], clock.around("between: solver", args[6]), *args[7:])
    elif way == "graph":
        timed = Timed(type("Step", (), {"run": staticmethod(step.run)}), clock, "between: step graph")

        def chosen(*args: Any) -> Any:
            return with_graph(timed, *args)
    else:

        def chosen(*args: Any) -> Any:
            if "made" not in stores:
                unet = generation._computer._networks.unet.inside._engine._session  # type: ignore[union-attr]
                stores["made"] = Bound(step, unet, clock, len(args[1]), args[1].shape[1:], args[2].shape[1:])
                call = clock.around("between: step graph", step.run_with_iobinding)
                stores["made"].session = type("Step", (), {"run_with_iobinding": staticmethod(call)})
            return stores["made"].sample(*args)

    compute.sample = clock.around(between, chosen)
    with TemporaryDirectory(prefix="dpd-step-") as folder:
        sampler = resolve_sampler(bundle.manifest.sampler, steps=15)
        generation = Generation(bundle, ipc=ipc, classes=classes, sampler=sampler, provider="cpu", threads=1)
        done = write_set(generation, Path(folder) / "set")
    clock.turn()
    found |= {"set_hash": done.set_hash, "images": done.images, "spans": dict(clock.spans) | dict(beside)}


def worker(way: str, classes: str, ipc: int) -> None:
    found: dict[str, Any] = {}
    thread = threading.Thread(target=one, args=(way, tuple(classes.split(",")) if classes else None, ipc, found))
    thread.start()
    thread.join()
    found["cpu_seconds"] = time.process_time()
    print(json.dumps(found))


def smallest(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Microseconds of CPU time of one call each, minima of `repeats` calls in turn."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(repeats):
        for name, call in ways.items():
            begun = time.thread_time()
            call()
            best[name] = min(best[name], time.thread_time() - begun)
    return {name: round(1e6 * value, 1) for name, value in best.items()}


def single_calls() -> dict[str, Any]:
    """One guided step between two UNet calls, and one UNet call, with warm caches."""
    from dpd_runtime import embedded_bundle, load_bundle
    from dpd_runtime.sampling.sample import sample
    from dpd_runtime.sampling.sampler import sampler_schedule
    from dpd_runtime.sampling.solvers import SOLVERS
    from dpd_runtime.sampling.step_table import GRAPH

    bundle = load_bundle(embedded_bundle())
    sampler = bundle.manifest.sampler.sampled()
    make, advance = SOLVERS[sampler.solver]
    steps = make(sampler_schedule(bundle.schedule, sampler), sampler.steps)
    rng, shape = np.random.default_rng(0), bundle.manifest.latent_shape
    noise, out = (rng.standard_normal((n, *shape)).astype(np.float32) for n in (10, 20))
    prompts, prototypes = bundle.prompt_embeddings[:10], bundle.classes[0].prototypes[:10]

    def denoise(latents: Any, *_: Any) -> Any:
        found = out[: len(latents)]
        assert np.isfinite(found).all()
        return found

    arguments = (denoise, noise, prompts, bundle.empty_embedding, prototypes, steps, advance,
                 bundle.schedule.prediction_type, sampler.guidance_for(0), None)  # fmt: skip
    step, unet = opened(bundle.files[GRAPH]), opened(bundle.files["unet/model.onnx"])
    silent = type("Unet", (), {"io_binding": unet.io_binding, "run_with_iobinding": staticmethod(lambda _: None)})
    bound = Bound(step, silent, Clock(), 10, shape, prompts.shape[1:])
    bound.output[:] = out
    near = np.abs(sample(*arguments) - with_graph(step, *arguments)).max()
    assert near < 1e-4
    assert np.abs(sample(*arguments) - bound.sample(*arguments)).max() < 1e-4
    ways = {
        "numpy": lambda: sample(*arguments),
        "graph": lambda: with_graph(step, *arguments),
        "bound": lambda: bound.sample(*arguments),
    }
    trajectory = {name: round(value / len(steps), 1) for name, value in smallest(ways, TIMINGS).items()}
    context = np.concatenate([prompts, np.broadcast_to(bundle.empty_embedding, prompts.shape)])
    feeds = {"sample": np.concatenate([noise, noise]), "timestep": np.array(500), "encoder_hidden_states": context}
    real = Bound(step, unet, Clock(), 10, shape, prompts.shape[1:])
    real.latents[:], real.moment[...], real.context[:] = feeds["sample"], 500, context
    calls = {
        "run": lambda: unet.run(None, feeds),
        "run again": lambda: unet.run(None, feeds),
        "bound": lambda: unet.run_with_iobinding(real.calls[20]),
    }
    return {
        "microseconds_a_step_with_a_unet_that_does_nothing": trajectory,
        "microseconds_of_a_unet_call_of_20_rows": smallest(calls, 60),
    }


def main() -> None:
    from dpd_runtime.checks.doctor import this_machine

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--classes", default="", help="default: all")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.one:
        worker(args.one, args.classes, args.ipc)
        return
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    command = [sys.executable, __file__, "--ipc", str(args.ipc), "--classes", args.classes, "--one"]
    for way in WAYS * args.runs:
        done = subprocess.run([*command, way], capture_output=True, text=True, check=True)
        runs[way].append(json.loads(done.stdout.splitlines()[-1]))
        print(way, runs[way][-1]["cpu_seconds"], flush=True)
    best = {}
    for way, of_way in runs.items():
        spans = {name: min(run["spans"][name] for run in of_way) for name in of_way[0]["spans"]}
        between = {name: value for name, value in spans.items() if name.startswith("between")}
        total = min(run["cpu_seconds"] for run in of_way)
        best[way] = {
            "cpu_seconds": round(total, 2),
            "cpu_seconds_of_each_run": [round(run["cpu_seconds"], 2) for run in of_way],
            "set_hash": of_way[0]["set_hash"],
            "between_unet_calls_seconds": round(sum(between.values()), 4),
            "between_unet_calls_share": round(sum(between.values()) / total, 5),
            "spans": {
                name: {"seconds": round(value, 4), "share": round(value / total, 5)}
                for name, value in sorted(spans.items(), key=lambda pair: -pair[1])
            },
        }
    whole = best["numpy"]["cpu_seconds"]
    saved = {
        way: round((best["numpy"]["between_unet_calls_seconds"] - best[way]["between_unet_calls_seconds"]) / whole, 5)
        for way in WAYS[1:]
    }
    found = this_machine()
    result = {
        "what": "CPU time of sampled dpd generate with the step between UNet calls in numpy, in the step graph, and in "
        "the step graph with IO binding; one thread, minima of processes in turn",
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": f"{found.processor}, {found.cores} cores shared with other work, no GPU; "
        f"load average {os.getloadavg()[0]:.1f}",
        "versions": found.versions,
        "command": f"dpd generate --ipc {args.ipc} --steps 15, networks with one thread"
        + (args.classes and f", --classes {args.classes}"),
        "ways": best,
        "saved_share_of_the_whole": saved,
        "single_calls": single_calls(),
    }
    tell(result, args.out)


if __name__ == "__main__":
    main()
