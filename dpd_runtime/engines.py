"""Engines that compute a graph: what each must offer, the providers, calls of fewer rows."""

import ctypes
import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dpd_runtime.annotations import Array
from dpd_runtime.engine_files import Shape
from dpd_runtime.errors import BundleError, MemoryShortError, MissingExtraError, ProviderError
from dpd_runtime.machine import discovered, nvidia_driver, why_not_discovered
from dpd_runtime.telemetry import import_onnxruntime
from dpd_runtime.text import counted

# -- The protocol of an engine: named arrays in, one array out.


PRECISIONS = FP32, BF16 = "fp32", "bf16"
FLOAT_BYTES = 4
"""Of the widest number that a graph may give: what dpd holds of it is known before the call."""


class Engine(Protocol):
    """A compiled graph."""

    def run(self, **inputs: Array) -> Array:
        """The first output of the graph for these named inputs."""
        ...


def run_to(engine: Engine, graph: str, shape: tuple[int, ...], **inputs: Array) -> Array:
    """Call `engine.run` and check that its output has floats of this shape.

    Args:
        graph: the graph's path in the bundle, for the error.

    Raises:
        BundleError: another type or shape.
    """
    output = engine.run(**inputs)
    if not isinstance(output, np.ndarray):
        raise misfit(graph, type(output).__name__, shape)
    return fitting(output, graph, shape)


def fitting(output: Array, graph: str, shape: tuple[int, ...]) -> Array:
    """Return an output of `graph` that has floats of this shape, of FLOAT_BYTES or fewer.

    Raises:
        BundleError: another type or shape.
    """
    if output.dtype.kind != "f" or output.dtype.itemsize > FLOAT_BYTES or output.shape != shape:
        raise misfit(graph, f"{output.dtype} {list(output.shape)}", shape)
    return output


def misfit(graph: str, given: str, shape: tuple[int, ...] | None) -> BundleError:
    """The error for an output of `graph` that is not what was asked for. shape: None if any of a usual size was."""
    wanted = "an output of a usual size" if shape is None else f"floats {list(shape)}"
    return BundleError(f"{graph} gave {given} instead of {wanted}; export the bundle again")


@dataclass(frozen=True)
class Provider:
    """An execution provider and the reason for its choice.

    Args:
        gpu: number of the GPU that was asked for; None if none was.
        precision: one of PRECISIONS. fp32: what a graph computes in float32 is not rounded to fewer bits; bf16: it is
            rounded to bfloat16 where the provider does so.
    """

    name: str
    reason: str
    gpu: int | None = None
    precision: str = FP32

    @property
    def device(self) -> int:
        """Number of the GPU, the first one if none was asked for; 0 on a CPU."""
        return self.gpu or 0

    @property
    def on_cpu(self) -> bool:
        return self.name == "cpu" or (self.name == "openvino" and self.gpu is None)

    def computes_in(self, precision: str) -> str:
        """The precision of what it makes of graphs of this precision."""
        return precision if self.precision == FP32 else self.precision


# -- ONNX Runtime's execution providers: what is loaded before a session, and the options with which they join it.
#
# Those of TensorRT compile a graph for a range of shapes, either `TensorrtExecutionProvider` (data-centre GPUs, in
# onnxruntime-gpu) or a plugin beside plain onnxruntime (TensorRT for RTX). Neither has run on a GPU in this project.


NAMES = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
}
"""Our names → ONNX Runtime's."""
FLAVOURS = {"tensorrt-rtx": "rtx", "tensorrt": "trt"}
"""The providers that compile graphs → our extra that installs them."""
RTX_PLUGIN, RTX_PACKAGE = "onnxruntime_ep_nv_tensorrt_rtx", "onnxruntime-ep-nv-tensorrt-rtx-cu13"
TENSORRT_LIBRARIES = ("libnvinfer.so.10", "libnvinfer_plugin.so.10", "libnvonnxparser.so.10")
CUDA_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}
"""The default search times kernels, so the next run may take others; TF32 keeps 10 of float32's 23 bits."""
ShapeRange = tuple[Shape, Shape, Shape]


@dataclass(frozen=True)
class Compilation:
    """What a provider that compiles a graph must know.

    Args:
        shapes: smallest, usual and largest shape of each input that has a batch axis, by its name. Empty for a graph
            that was compiled before.
        cache: a folder, private to this process, for what was compiled; None to keep nothing.
    """

    shapes: Mapping[str, ShapeRange] = field(default_factory=dict)
    cache: Path | None = None


def available_providers() -> tuple[str, ...]:
    """The providers (by our names) that the installed packages bring, whether or not they work on this machine."""
    listed = import_onnxruntime().get_available_providers()
    names = [name for name, theirs in NAMES.items() if theirs in listed]
    return (*names, *(["tensorrt-rtx"] if find_spec(RTX_PLUGIN) is not None else []))


def join_session(options: Any, provider: Provider, compilation: Compilation) -> list[tuple[str, dict[str, str]]] | None:
    """Load what the provider needs, and add it to the options of a session.

    Args:
        options: onnxruntime's SessionOptions.

    Returns:
        The session's `providers`; None if `options` hold the device of a plugin.

    Raises:
        MissingExtraError: a package is not installed.
        ProviderError: the provider finds no GPU.
    """
    theirs = NAMES[provider.name]
    if provider.name == "cpu":
        return [(theirs, {})]
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if provider.name == "tensorrt-rtx":
        options.add_provider_for_devices([_rtx_device(provider.device)], rtx_options(compilation))
        return None
    device = {"device_id": str(provider.device)}
    if provider.name == "tensorrt":
        preload_tensorrt()
        return [(theirs, device | tensorrt_options(compilation))]
    preload_cuda()
    options.use_deterministic_compute = True
    return [(theirs, device | CUDA_OPTIONS)]


@cache
def preload_cuda() -> None:
    """Load the CUDA and cuDNN libraries that pip installed: onnxruntime's own library does not find them.

    It prints what is missing, and onnxruntime logs it in colours. The session that fails next is explained in one line,
    and standard output is for --json.
    """
    import_onnxruntime().set_default_logger_severity(4)
    with redirect_stdout(StringIO()):
        import_onnxruntime().preload_dlls()


@cache
def preload_tensorrt() -> str:
    """Load TensorRT's libraries, from NVIDIA's package `tensorrt_libs` or from the system, and return their version.

    Raises:
        MissingExtraError: they are not found.
    """
    _forbid_tf32()
    preload_cuda()
    spec = find_spec("tensorrt_libs")
    folders = [Path(place) for place in (spec.submodule_search_locations or [])] if spec is not None else []
    try:
        libraries = [_load_library(name, folders) for name in TENSORRT_LIBRARIES]
    except OSError as error:
        raise MissingExtraError(f"TensorRT 10 ({error})", FLAVOURS["tensorrt"]) from error
    return _library_version(libraries[0])


def _forbid_tf32() -> None:
    """Keep all bits of float32: TensorRT and cuDNN round products to TF32 unless this is set before they are loaded."""
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"


def _load_library(name: str, folders: list[Path]) -> ctypes.CDLL:
    there = [folder / name for folder in folders if (folder / name).is_file()]
    return ctypes.CDLL(str(there[0]) if there else name, mode=ctypes.RTLD_GLOBAL)


def _library_version(library: ctypes.CDLL) -> str:
    """For example "1.7.1.116", as the Python package of TensorRT says it."""
    return ".".join(
        str(getattr(library, f"getInferLib{part}Version")()) for part in ("Major", "Minor", "Patch", "Build")
    )


def flavour_version(flavour: str) -> str:
    """The version of TensorRT that a provider loads.

    Raises:
        MissingExtraError: it is not installed.
    """
    if flavour == "tensorrt-rtx":
        _rtx_plugin()
        try:
            return _library_version(ctypes.CDLL("libtensorrt_rtx.so.1"))  # which the plugin's package has loaded
        except OSError as error:
            raise MissingExtraError(f"{RTX_PACKAGE} ({error})", FLAVOURS[flavour]) from error
    if NAMES[flavour] not in import_onnxruntime().get_available_providers():
        raise MissingExtraError("onnxruntime-gpu", FLAVOURS[flavour])
    return preload_tensorrt()


def _rtx_plugin() -> Any:
    """The plugin's package. Its import loads its libraries, so that onnxruntime finds them."""
    _forbid_tf32()
    try:
        return import_module(RTX_PLUGIN)
    except ImportError as error:
        raise MissingExtraError(RTX_PACKAGE, FLAVOURS["tensorrt-rtx"]) from error


@cache
def rtx_devices() -> list[Any]:
    """Register the plugin, once for this process, and list the GPUs that it finds.

    It is never unregistered: sessions may still use it.

    Raises:
        MissingExtraError: the plugin is not installed.
        ProviderError: it cannot be loaded, for want of a driver.
    """
    onnxruntime, plugin = import_onnxruntime(), _rtx_plugin()
    try:
        onnxruntime.register_execution_provider_library(plugin.get_ep_name(), plugin.get_library_path())
    except Exception as error:  # onnxruntime's errors have no other common base class
        reason = nvidia_driver().problem or " ".join(str(error).split())[:200]
        raise ProviderError(f"provider tensorrt-rtx: its plugin cannot be loaded ({reason})") from error
    return [device for device in onnxruntime.get_ep_devices() if device.ep_name == plugin.get_ep_name()]


def _rtx_device(number: int) -> Any:
    """The plugin's device for GPU `number` of CUDA."""
    devices, driver = rtx_devices(), nvidia_driver()
    if number >= len(driver.gpus):
        reason = driver.problem or f"the driver finds {len(driver.gpus)}, from 0"
        raise ProviderError(f"provider tensorrt-rtx: no GPU {number} ({reason})")
    device = discovered(devices, driver.gpus[number], number)
    if device is None:
        raise ProviderError(f"provider tensorrt-rtx: {why_not_discovered(driver.gpus[number])}")
    return device


def rtx_options(compilation: Compilation) -> dict[str, str]:
    """The plugin's options (tensorrt_rtx_provider_options.h in its package). Its cache holds kernels, not engines."""
    options = _profile_options("nv", compilation.shapes)
    return options | ({} if compilation.cache is None else {"nv_runtime_cache_path": str(compilation.cache)})


def tensorrt_options(compilation: Compilation) -> dict[str, str]:
    """The options of TensorrtExecutionProvider. Its own cache holds engines.

    `trt_fp16_enable` stays off: it would let the builder round what the graph computes in float32
    (microsoft/onnxruntime#18707). So a graph that computes in float16 comes as an engine, from `dpd engines`.
    """
    options = _profile_options("trt", compilation.shapes)
    if compilation.cache is not None:
        options |= {f"trt_{kind}_cache_enable": "1" for kind in ("engine", "timing")}
        options |= {f"trt_{kind}_cache_path": str(compilation.cache) for kind in ("engine", "timing")}
    return options


def _profile_options(prefix: str, shapes: Mapping[str, ShapeRange]) -> dict[str, str]:
    """The range of shapes, as in "sample:1x4x16x16,encoder_hidden_states:1x32x128"."""
    if not shapes:
        return {}
    texts = [
        ",".join(f"{name}:{'x'.join(map(str, ranges[place]))}" for name, ranges in shapes.items()) for place in range(3)
    ]
    return {f"{prefix}_profile_{end}_shapes": text for end, text in zip(("min", "opt", "max"), texts, strict=True)}


# -- Splitting calls by rows: into smaller ones if memory is short, or into two simultaneous halves, which are faster.
#
# Rows are the first axis of all inputs (but scalars) and of the output. On a CPU the result of a row has the same bits
# in every call of at least LEAST rows. Other providers choose kernels by the size of a call, so last bits may differ.


LEAST = 2
"""Rows of the smallest call. For a single row ONNX Runtime uses other kernels, whose last bits differ."""
_log = logging.getLogger(__name__)


class FewerRows:
    """An engine that halves the rows of its calls until they fit into memory, and then keeps that size.

    All calls have the same size: the last one is filled up with its first row.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        """Args:
        name: the graph's name for the log, which has one line for each halving.
        """
        self._engine, self._name = engine, name
        self.most: int | None = None
        """Rows of a call; None as long as all fitted."""

    def run(self, **inputs: Array) -> Array:
        """Raises:
        MemoryShortError: not even LEAST rows fit.
        """
        rows = count_rows(inputs)
        while True:
            calls = rows if self.most is None else min(rows, self.most)
            try:
                return self._engine.run(**inputs) if calls == rows else self._in_parts(inputs, rows, calls)
            except MemoryShortError as error:
                if calls <= LEAST:
                    raise MemoryShortError(
                        f"{error}, even with {counted(calls, 'row')} in a call; free memory or use a machine with more"
                    ) from error
                self.most = max(LEAST, calls // 2)
                _log.warning("%s; continuing with %d rows in a call instead of %d", error, self.most, calls)

    def _in_parts(self, inputs: Mapping[str, Array], rows: int, most: int) -> Array:
        whole: Array | None = None
        for start in range(0, rows, most):
            part = np.arange(start, start + most)
            part[part >= rows] = start
            output = self._engine.run(**_take(inputs, part))
            if output.shape[:1] != (most,) or (whole is not None and output.shape[1:] != whole.shape[1:]):
                return output  # which `run_to` refuses
            if whole is None:  # filled part by part: memory is short, and a list of the parts would be there twice
                whole = np.empty((rows, *output.shape[1:]), output.dtype)
            whole[start : start + most] = output[: rows - start]
        assert whole is not None
        return whole


class TwoCalls:
    """An engine that makes each call as two simultaneous halves, each in its own thread.

    Two threads within one call wait for each other after every node of the graph; two calls do not.
    """

    def __init__(self, engine: Engine) -> None:
        """Args:
        engine: one that two threads can call at the same time.
        """
        self._engine = engine
        self._other = ThreadPoolExecutor(1, "half-call")

    def run(self, **inputs: Array) -> Array:
        """Run both halves. An error of either is raised after both have ended, an interrupt at once."""
        rows = count_rows(inputs)
        if rows < 2 * LEAST:
            return self._engine.run(**inputs)
        first, second = np.split(np.arange(rows), [(rows + 1) // 2])
        with_it = self._other.submit(self._engine.run, **_take(inputs, second))
        try:
            output = self._engine.run(**_take(inputs, first))
        except Exception:
            with_it.exception()
            raise
        other = with_it.result()
        if not output.ndim or output.shape[1:] != other.shape[1:]:
            return output  # which `run_to` refuses
        return np.concatenate([output, other])


def count_rows(inputs: Mapping[str, Array]) -> int:
    """The rows of a call."""
    return max((len(value) for value in inputs.values() if value.ndim), default=0)


def _take(inputs: Mapping[str, Array], rows: Array) -> dict[str, Array]:
    return {name: value[rows] if value.ndim else value for name, value in inputs.items()}
