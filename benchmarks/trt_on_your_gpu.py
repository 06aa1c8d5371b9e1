"""Compare TensorRT on your GPU with ONNX Runtime and diffusers: one command, one JSON object to send in.

NEVER EXECUTED ON A GPU by its authors, who have none that TensorRT-RTX supports. Only tried on a machine without a GPU,
where it runs to the end and says for each engine why it could not be measured.

    pip install "dpd-distill[export,rtx,gpu]"     an RTX card; [export,trt,gpu] for a data-centre one
    python benchmarks/trt_on_your_gpu.py > mine.json
    python benchmarks/trt_on_your_gpu.py site.dpd --flavour tensorrt --pipeline run/pipeline > mine.json

Builds engines from the bundle's ONNX graphs. Engines inside a bundle are native code and load only with
--bundle-engines. Reports median milliseconds of one UNet step with its inputs on the device, and the PSNR in dB of ten
images against ONNX Runtime on the CPU, with the same noise and one candidate.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dpd_runtime import load_bundle
from dpd_runtime.bundle.bundle import Bundle, embedded_bundle
from dpd_runtime.bundle.engine_fit import choose_engine, this_site
from dpd_runtime.engines.engine import Provider
from dpd_runtime.generation.generate import Generation, resolve_sampler
from dpd_runtime.generation.replay import psnr
from dpd_runtime.machine.driver import working_driver

UNET, DECODER = "unet/model.onnx", "vae_decoder/model.onnx"
TOOLS = (
    "dpd-distill",
    "tensorrt",
    "cuda-bindings",
    "onnxruntime",
    "torch",
    "diffusers",
)  # and packages whose names begin with these
Arrays = dict[str, npt.NDArray[Any]]


def median_ms(step: Callable[[], object], repeats: int) -> dict[str, float]:
    """Median time of `step`, which returns when the device has finished, and the time of its first call."""
    started = time.perf_counter()
    step()
    first = time.perf_counter() - started  # on RTX cards and under torch.compile this includes compiling
    for _ in range(5):
        step()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        step()
        times.append(1e3 * (time.perf_counter() - started))
    return {"step_ms": round(float(np.median(times)), 4), "first_call_s": round(first, 3)}


class TensorRtEngine:
    """A deserialised engine with buffers on the device."""

    def __init__(self, trt: Any, plan: Any) -> None:
        self._cuda: Any = import_module("cuda.bindings.runtime")
        self._trt, self._logger = trt, trt.Logger(trt.Logger.ERROR)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise RuntimeError("TensorRT cannot deserialise the engine here")
        self._context = self._engine.create_execution_context()
        self._stream = self._ask(self._cuda.cudaStreamCreate())
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        is_input = {name: self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
        self._inputs = [name for name in names if is_input[name]]
        self._output = next(name for name in names if not is_input[name])
        self._buffers: dict[str, tuple[int, int]] = {}

    def _ask(self, answer: tuple[Any, ...]) -> Any:
        if int(answer[0]) != 0:
            raise RuntimeError(f"CUDA error {answer[0]!r}")
        return answer[1] if len(answer) > 1 else None

    def _buffer(self, name: str, size: int) -> int:
        """Device memory for one tensor, kept from call to call."""
        pointer, held = self._buffers.get(name, (0, 0))
        if held < size:
            if pointer:
                self._ask(self._cuda.cudaFree(pointer))
            pointer = int(self._ask(self._cuda.cudaMalloc(size)))
            self._buffers[name] = (pointer, size)
        self._context.set_tensor_address(name, pointer)
        return pointer

    def bind(self, inputs: Arrays) -> None:
        """Copy the inputs to the device and make room for the output."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        for name in self._inputs:
            dtype = self._trt.nptype(self._engine.get_tensor_dtype(name))
            value = np.array(inputs[name], dtype, order="C")
            if value.ndim and not self._context.set_input_shape(name, value.shape):
                raise RuntimeError(f"{name}: shape {value.shape} is outside the engine's profile")
            pointer = self._buffer(name, max(value.nbytes, 1))
            self._ask(self._cuda.cudaMemcpy(pointer, value.ctypes.data, value.nbytes, kind))
        shape = tuple(self._context.get_tensor_shape(self._output))
        self._result = np.empty(shape, self._trt.nptype(self._engine.get_tensor_dtype(self._output)))
        self._buffer(self._output, self._result.nbytes)

    def execute(self) -> None:
        if not self._context.execute_async_v3(int(self._stream)):
            raise RuntimeError("TensorRT could not run the engine")
        self._ask(self._cuda.cudaStreamSynchronize(self._stream))

    def run(self, **inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
        self.bind(inputs)
        self.execute()
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        pointer = self._buffers[self._output][0]
        self._ask(self._cuda.cudaMemcpy(self._result.ctypes.data, pointer, self._result.nbytes, kind))
        return self._result.astype(np.float32)


class TorchEngine:
    """A diffusers network on PyTorch's device, in float16 on a GPU."""

    def __init__(self, call: Callable[..., Any]) -> None:
        import torch

        self._torch, self._call = torch, call
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._dtype = torch.float16 if self._device == "cuda" else torch.float32

    def bind(self, inputs: Arrays) -> None:
        tensors = [self._torch.from_numpy(np.array(value)) for value in inputs.values()]
        self._bound = [t.to(self._device, self._dtype if t.is_floating_point() else None) for t in tensors]

    def execute(self) -> None:
        with self._torch.inference_mode():
            self._result = self._call(*self._bound, return_dict=False)[0]
        if self._device == "cuda":
            self._torch.cuda.synchronize()

    def run(self, **inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
        self.bind(inputs)
        self.execute()
        result: npt.NDArray[Any] = self._result.float().cpu().numpy()
        return result


@dataclass(frozen=True)
class WithEngines(Bundle):
    """A bundle with other engines for some graphs, so that `dpd generate`'s own code makes the images."""

    engines: Any = None

    def engine(self, graph: str, provider: Provider, threads: int | None = None) -> Any:
        return self.engines.get(graph) or super().engine(graph, provider, threads)


def images_of(bundle: Bundle, engines: dict[str, Any], provider: str = "cpu") -> npt.NDArray[np.uint8]:
    """Ten images of the first class, seed 0, one candidate: [10, H, W, 3]."""
    changed = WithEngines(**{f.name: getattr(bundle, f.name) for f in fields(Bundle)}, engines=engines)
    sampler = resolve_sampler(bundle.manifest.sampler, candidates=1)
    images = Generation(changed, ipc=10, classes=(bundle.classes[0].name,), sampler=sampler, provider=provider)
    return np.stack([image.pixels for image in images])


def measure_tensorrt(
    bundle: Bundle, name: str, inputs: Arrays, from_bundle: bool, repeats: int
) -> tuple[dict[str, Any], Any]:
    """Build engines for this GPU, or take them from the bundle if allowed; time a step and make images."""
    from dpd_export.engines.builder import build_engine
    from dpd_export.engines.flavours import FLAVOURS, import_flavour
    from dpd_export.engines.profiles import profiles_of, row_shapes

    flavour, site = FLAVOURS[name], this_site(name)
    trt = import_flavour(flavour)
    said: dict[str, Any] = {"driver": asdict(working_driver()), "engines": {}}
    engines = {}
    for graph in (UNET, DECODER):
        profiles = profiles_of(graph.split("/")[0], bundle.manifest)
        profile = (
            profiles[0] if len(profiles) == 2 else profiles[-1]
        )  # the dynamic engine, if there are several batches
        if from_bundle:
            chosen = choose_engine(
                bundle.files,
                bundle.manifest.files,
                graph,
                profile.usual,
                site,
                requested=name,
                signature=bundle.signature,
            )
            plan, seconds = bundle.read_engine(str(chosen.path)), 0.0
            said["engines"][graph] = {"from": chosen.path}
        else:
            built = build_engine(
                trt, flavour, bundle.files, graph, profile, row_shapes(bundle), (site.compute_capability,),
                tf32=bundle.manifest.precision != "fp32",
            )  # fmt: skip
            plan, seconds = built.content, built.seconds
            arithmetic = dict(built.arithmetic)
            said["engines"][graph] = {"profile": profile.name, "arithmetic": arithmetic, "bytes": built.bytes}
        started = time.perf_counter()
        engines[graph] = TensorRtEngine(trt, plan)
        loading = round(time.perf_counter() - started, 3)
        said["engines"][graph] |= {"build_s": round(seconds, 2), "load_s": loading}
    engines[UNET].bind(inputs)
    return said | median_ms(engines[UNET].execute, repeats), images_of(bundle, engines)


def measure_onnxruntime(bundle: Bundle, provider: str, inputs: Arrays, repeats: int) -> tuple[dict[str, Any], Any]:
    import onnxruntime

    session = bundle.engine(UNET, Provider(provider, "benchmark"))._session
    bound = session.io_binding()
    for name, value in inputs.items():
        bound.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(value, provider, 0))
    bound.bind_output(session.get_outputs()[0].name, provider, 0)

    def step() -> None:
        session.run_with_iobinding(bound)
        bound.synchronize_outputs()

    return median_ms(step, repeats), images_of(bundle, {}, provider)


def measure_diffusers(
    bundle: Bundle, pipeline: Path | None, inputs: Arrays, repeats: int
) -> tuple[dict[str, Any], Any]:
    """Time a step of diffusers. Without `pipeline` the weights are random, and no images are compared."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    if pipeline is None:
        unet = UNet2DConditionModel.from_config(json.loads(bundle.files["unet/config.json"]))
    else:
        unet = UNet2DConditionModel.from_pretrained(pipeline / "unet", local_files_only=True)
    cuda = torch.cuda.is_available()
    place = {"device": "cuda", "dtype": torch.float16} if cuda else {"device": "cpu"}
    step = TorchEngine(unet.eval().to(**place))
    step.bind(inputs)
    said = {"device": place["device"], "dtype": "float16" if cuda else "float32"} | median_ms(step.execute, repeats)
    if pipeline is None:
        return said, None
    vae = AutoencoderKL.from_pretrained(pipeline / "vae", local_files_only=True).eval().to(**place)
    return said, images_of(bundle, {UNET: step, DECODER: TorchEngine(vae.decode)})


def unet_inputs(bundle: Bundle) -> Arrays:
    """Random inputs of one step, with the batch of the bundle's sampler."""
    from dpd_export.engines.profiles import batches_of

    generator, batch = np.random.default_rng(0), batches_of("unet", bundle.manifest)[0]
    wanted = bundle.engine(UNET, Provider("cpu", "shapes"))._session.get_inputs()
    dtypes = {
        i.name: np.float16 if "float16" in i.type else np.float32 if "float" in i.type else np.int64 for i in wanted
    }
    shapes = {
        "sample": (batch, *bundle.manifest.latent_shape),
        "encoder_hidden_states": (batch, *bundle.empty_embedding.shape),
    }
    random = {name: generator.standard_normal(shape).astype(dtypes[name]) for name, shape in shapes.items()}
    return {name: random[name] if name in random else np.array(500, dtype) for name, dtype in dtypes.items()}


def installed() -> dict[str, str]:
    named = {str(found.metadata["Name"]).replace("_", "-"): found.version for found in distributions()}
    return {name: named[name] for name in sorted(named) if name.startswith(TOOLS)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path, default=embedded_bundle())
    parser.add_argument("--flavour", choices=("tensorrt-rtx", "tensorrt"), default="tensorrt-rtx")
    parser.add_argument("--pipeline", type=Path, help="the run's pipeline folder, to make images with diffusers too")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument(
        "--bundle-engines", action="store_true", help="load the bundle's own engines, if a trusted key signed it"
    )
    options = parser.parse_args()
    bundle = load_bundle(options.bundle)
    inputs, repeats = unet_inputs(bundle), options.repeats
    kinds: dict[str, Callable[[], tuple[dict[str, Any], Any]]] = {
        "onnxruntime cpu": lambda: measure_onnxruntime(bundle, "cpu", inputs, min(repeats, 5)),
        "onnxruntime cuda": lambda: measure_onnxruntime(bundle, "cuda", inputs, repeats),
        options.flavour: lambda: measure_tensorrt(bundle, options.flavour, inputs, options.bundle_engines, repeats),
        "diffusers": lambda: measure_diffusers(bundle, options.pipeline, inputs, repeats),
    }
    answers, reference = {}, None
    for name, measure in kinds.items():
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            said, images = measure()
        except Exception as error:  # one failure must not stop the others
            answers[name] = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
            continue
        if images is not None:
            reference = images if reference is None else reference
            said["psnr_db_beside_onnxruntime_cpu"] = round(psnr(images, reference), 2)
        answers[name] = said
    machine = {"system": platform.platform(), "python": platform.python_version(), "packages": installed()}
    content = {"bundle": bundle.hash, "precision": bundle.manifest.precision, "batch": len(inputs["sample"])}
    print(json.dumps({**content, "machine": machine, "results": answers}, indent=1))


if __name__ == "__main__":
    main()
