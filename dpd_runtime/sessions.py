"""Engines of this process: ONNX Runtime and OpenVINO."""

import io
import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from threading import Lock
from typing import Any, Protocol

import numpy as np

from dpd_runtime.annotations import Array
from dpd_runtime.calls import interruptible
from dpd_runtime.engine_files import keep_model
from dpd_runtime.engines import (
    BF16,
    NAMES,
    Compilation,
    Engine,
    Provider,
    TwoCalls,
    available_providers,
    flavour_version,
    join_session,
)
from dpd_runtime.errors import BundleError, DpdError, MemoryShortError, ProviderError
from dpd_runtime.machine import memory_for_graphs, nvidia_driver, usable_cores
from dpd_runtime.telemetry import import_onnxruntime, import_openvino
from dpd_runtime.text import counted, printable

# -- ONNX Runtime sessions from bytes in memory, so that the hashed bytes are the ones that run.


_OUT_OF_MEMORY = (
    *("Failed to allocate memory", "Available memory of", "bad allocation", "bad_alloc"),
    *("out of memory", "ALLOC_FAILED"),  # CUDA, and cuBLAS and cuDNN
    "can't start new thread",
)
_log = logging.getLogger(__name__)
SHAPE_OPS = frozenset(
    {"Shape", "Size", "Gather", "Concat", "Unsqueeze", "Squeeze", "Slice", "Reshape", "Add", "Sub", "Mul", "Div"}
)
"""Operators that a GPU's provider may leave to the CPU. It has kernels of all of them for the types of our graphs, so
where one is left there it computes sizes of tensors. With --dynamic-size, sizes are added and divided.
"""


def check_placement(nodes: Iterable[tuple[str, str, str]], provider: str, theirs: str) -> None:
    """Check that a GPU's provider runs all nodes of a graph but those that compute sizes.

    Args:
        nodes: provider (by its own name), operator and name of each node. theirs: the provider's own name.

    Raises:
        ProviderError: other nodes would run on the CPU, or the provider runs none.
    """
    nodes = list(nodes)
    if not any(placed == theirs for placed, _, _ in nodes):
        raise ProviderError(f"provider {provider}: it would run no node of the graph; use --provider cpu")
    elsewhere = [f"{op} {name}" for placed, op, name in nodes if placed != theirs and op not in SHAPE_OPS]
    if elsewhere:
        raise ProviderError(
            f"provider {provider}: {counted(len(elsewhere), 'node')} would run elsewhere, such as {elsewhere[0]}; "
            "use --provider cpu, or another version of onnxruntime-gpu"
        )


def _placement(session: Any) -> list[tuple[str, str, str]]:
    """Provider, operator and name of each node."""
    parts = session.get_provider_graph_assignment_info()
    return [(part.ep_name, node.op_type, node.name) for part in parts for node in part.get_nodes()]


@cache
def _limit_memory() -> bool:
    """Use one CPU arena for all graphs, limited to the memory that they may take. Done once a process.

    A small graph can request any amount of memory. Without the limit the kernel would kill this process or others.
    """
    memory = memory_for_graphs()
    if memory is None:
        return False
    onnxruntime = import_onnxruntime()
    info = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    own = dict.fromkeys(("arena_extend_strategy", "initial_chunk_size_bytes", "max_dead_bytes_per_chunk"), -1)
    arena = onnxruntime.OrtArenaCfg({"max_mem": memory, **own})
    onnxruntime.create_and_register_allocator(info, arena)
    return True


def _add_weights(options: Any, weights: Mapping[str, bytes]) -> None:
    names, contents = list(weights), list(weights.values())
    options.add_external_initializers_from_files_in_memory(names, contents, [len(content) for content in contents])


def _session_options(provider: Provider, threads: int | None, weights: Mapping[str, bytes] | None) -> Any:
    options = import_onnxruntime().SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised; the log would repeat them
    # without it onnxruntime decides by bytes of the graph, and could read another format than the one checked
    options.add_session_config_entry("session.load_model_format", "ONNX")
    if provider.name == "cpu" and _limit_memory():
        options.add_session_config_entry("session.use_env_allocators", "1")
    if weights:
        _add_weights(options, weights)
    return options


class OnnxRuntimeEngine:
    """One graph on one provider."""

    def __init__(
        self,
        graph: bytes,
        provider: Provider,
        threads: int | None = None,
        weights: Mapping[str, bytes] | None = None,
        *,
        name: str = "the graph",
        compilation: Compilation = Compilation(),  # noqa: B008 (immutable)
    ) -> None:
        """Args:
            threads: intra-op threads; None for all usable cores.
            weights: content of the files in which the graph keeps weights, by name. onnxruntime opens no file then.
            name: of the graph, for errors.
            compilation: for providers that compile the graph.

        Raises:
            MissingExtraError, ProviderError: the provider is not installed, or does not load.
            MemoryShortError: the graph does not fit into memory.
            BundleError: onnxruntime cannot run this graph.
        """
        onnxruntime = import_onnxruntime()
        self._name, self._provider = name, provider.name
        theirs = NAMES[provider.name]
        if provider.name == "tensorrt-rtx" and compilation.shapes and not weights:
            graph, compilation = self._compiled(graph, provider, threads, compilation)
        options = _session_options(provider, threads, weights)
        joined = join_session(options, provider, compilation)
        try:
            # the built-in fallback would print to stdout and try the CPU
            self._session = interruptible(
                lambda: onnxruntime.InferenceSession(graph, options, providers=joined, enable_fallback=0),
                lambda: options.set_load_cancellation_flag(True),
            )
        except Exception as error:  # onnxruntime's errors have no other common base class
            raise self._explained(error) from error
        if self._session.get_providers()[0] != theirs:
            raise ProviderError(
                f"provider {provider.name}: onnxruntime could not load {theirs} "
                f"({nvidia_driver().problem or 'CUDA or cuDNN libraries missing?'}) and would run on the CPU; "
                "use --provider cpu to accept that"
            )
        if provider.name != "cpu":
            check_placement(_placement(self._session), provider.name, theirs)
        self._output = self._session.get_outputs()[0].name
        # a graph says whether it takes the timestep as a float
        self._floats = frozenset(given.name for given in self._session.get_inputs() if given.type == "tensor(float)")

    def _compiled(
        self, graph: bytes, provider: Provider, threads: int | None, compilation: Compilation
    ) -> tuple[bytes, Compilation]:
        """Compile a graph to a model around its engine, and put that into the compilation's folder.

        Where this fails, the graph itself is returned: the session then compiles it, at each start.
        """
        options = _session_options(provider, threads, None)
        join_session(options, provider, compilation)
        try:
            compiler = import_onnxruntime().ModelCompiler(options, graph, embed_compiled_data_into_model=True)
            model: bytes = interruptible(compiler.compile_to_bytes)
        except Exception as error:  # as above
            _log.warning("%s is compiled again at each start (%s)", self._name, _line(error)[:200])
            return graph, compilation
        if compilation.cache is not None:
            keep_model(compilation.cache, graph, model)
        return model, replace(compilation, shapes={})

    def run(self, **inputs: Array) -> Array:
        options = import_onnxruntime().RunOptions()
        inputs |= {
            name: v.astype(np.float32) for name, v in inputs.items() if v.dtype.kind == "i" and name in self._floats
        }
        try:
            output: Array = interruptible(
                lambda: self._session.run([self._output], inputs, options)[0],
                lambda: setattr(options, "terminate", True),
            )
        except Exception as error:
            raise self._explained(error) from error
        return output

    def _explained(self, error: Exception) -> DpdError:
        """Our error for one of onnxruntime. On a CPU the bundle is the cause, unless memory is short."""
        said = _line(error)
        status = said.rpartition("Status Message:")[2]
        for words in _OUT_OF_MEMORY:
            if words in status:
                return MemoryShortError(
                    f"{self._name} needs more memory than is available ({status[status.index(words) :][:160]})"
                )
        if self._provider != "cpu":
            return ProviderError(f"{self._name} does not run on {self._provider} ({said[:300]}); use --provider cpu")
        return BundleError(f"{self._name} cannot be run ({said[:300]}); export the bundle again")


def _line(error: Exception) -> str:
    """What onnxruntime says, in one line. It names nodes, and the bundle's author chose their names."""
    return printable(" ".join(str(error).split()))


# -- Where graphs run: in this process (`HERE`), or in one of their own (`dpd_runtime.engines.apart`).


class Host(Protocol):
    """A process that has ONNX Runtime."""

    @property
    def ended(self) -> bool:
        """Whether it computes nothing more, and with it what was loaded there."""
        ...

    def available_providers(self) -> tuple[str, ...]:
        """As `dpd_runtime.engines.available_providers`."""
        ...

    def flavour_version(self, flavour: str) -> str:
        """As `dpd_runtime.engines.flavour_version`."""
        ...

    def load(
        self,
        graph: bytes,
        provider: Provider,
        threads: int | None,
        weights: Mapping[str, bytes] | None,
        name: str,
        compilation: Compilation,
        *,
        halves: bool = False,
        row: tuple[int, ...] | None = None,
    ) -> Engine:
        """Load a graph. Arguments and errors are those of `OnnxRuntimeEngine`.

        Args:
            halves: make each call as two, with so many threads each (`TwoCalls`).
            row: the shape of the output for one row of the inputs, if it is known. An engine of another process raises
                BundleError for any other output, and does not read it where it is larger.
        """
        ...


class _Here:
    ended = False

    def available_providers(self) -> tuple[str, ...]:
        return available_providers()

    def flavour_version(self, flavour: str) -> str:
        return flavour_version(flavour)

    def load(
        self,
        graph: bytes,
        provider: Provider,
        threads: int | None,
        weights: Mapping[str, bytes] | None,
        name: str,
        compilation: Compilation,
        *,
        halves: bool = False,
        row: tuple[int, ...] | None = None,
    ) -> Engine:
        engine = OnnxRuntimeEngine(graph, provider, threads, weights, name=name, compilation=compilation)
        return TwoCalls(engine) if halves else engine


HERE: Host = _Here()


# -- OpenVINO on bytes in memory, so that the hashed bytes are the ones that run.
#
# It is Intel's own package, not its plugin for ONNX Runtime, which lists no device on processors of others.


_OPENVINO_OUT_OF_MEMORY = ("Failed to allocate", "bad_alloc", "bad allocation", "out of memory", "OUT_OF_RESOURCES")


@cache
def _core() -> Any:
    return import_openvino().Core()


def openvino_device(provider: Provider) -> str:
    """OpenVINO's name of the device: the CPU, or the GPU that was asked for.

    Raises:
        ProviderError: there is no such GPU, or the device has no bfloat16 and that was asked for.
    """
    core = _core()
    device = "CPU" if provider.on_cpu else f"GPU.{provider.device}"
    there = [{"GPU": "GPU.0"}.get(name, name) for name in core.available_devices]  # an only GPU has no number
    if device not in there:
        raise ProviderError(
            f"provider openvino: {device} is not there; OpenVINO lists {', '.join(there)}; use another --device"
        )
    if provider.precision == BF16 and "BF16" not in core.get_property(device, "OPTIMIZATION_CAPABILITIES"):
        raise ProviderError(
            f"provider openvino: {core.get_property(device, 'FULL_DEVICE_NAME')} has no bfloat16; leave out --precision"
        )
    return device


def gpu_of_openvino(number: int) -> str:
    """The name of a GPU, for example "Intel(R) Graphics (iGPU)"."""
    return str(_core().get_property(f"GPU.{number}", "FULL_DEVICE_NAME"))


class OpenVinoEngine:
    """One graph on one device. Calls from several threads wait for each other."""

    def __init__(
        self, graph: bytes, provider: Provider, threads: int | None = None, *, name: str = "the graph"
    ) -> None:
        """Args:
            threads: of a call on the CPU; None for all usable cores.
            name: of the graph, for errors.

        Raises:
            MissingExtraError: openvino is not installed.
            ProviderError: no such device, or openvino cannot run this graph.
            MemoryShortError: the graph does not fit into memory.
        """
        self._name, self._call = name, Lock()
        device = openvino_device(provider)
        settings: dict[str, Any] = {
            # without a hint it would choose by the device: bf16 on a CPU that has it, f16 on a GPU
            "INFERENCE_PRECISION_HINT": "bf16" if provider.precision == BF16 else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        if provider.on_cpu:
            settings["INFERENCE_NUM_THREADS"] = threads or usable_cores()
            settings["ENABLE_CPU_PINNING"] = False  # two processes would be pinned to the same cores
        try:
            self._request = interruptible(lambda: _compiled(graph, device, settings).create_infer_request())
        except Exception as error:  # openvino raises RuntimeError for everything
            raise self._explained(error) from error

    def run(self, **inputs: Array) -> Array:
        try:
            output: Array = interruptible(lambda: self._infer(inputs), self._request.cancel)
        except Exception as error:
            raise self._explained(error) from error
        return output

    def _infer(self, inputs: dict[str, Array]) -> Array:
        with self._call:
            self._request.start_async(inputs)  # `infer` cannot be cancelled
            self._request.wait()
            return np.array(self._request.get_output_tensor(0).data)

    def _explained(self, error: Exception) -> DpdError:
        """Our error for one of openvino, whose messages name lines of its source first."""
        said = printable(" ".join(str(error).split()))
        for words in _OPENVINO_OUT_OF_MEMORY:
            if words in said:
                reason = said[said.index(words) :][:160]
                return MemoryShortError(f"{self._name} needs more memory than is available ({reason})")
        return ProviderError(f"{self._name} does not run on openvino ({said[-300:]}); use --provider cpu")


def _compiled(graph: bytes, device: str, settings: dict[str, Any]) -> Any:
    """Read the graph as ONNX, compile it for a device.

    `Core.read_model` would decide by the bytes which of its formats they are, and so could read another one than the
    one that was checked.
    """
    reader = import_openvino().frontend.FrontEndManager().load_by_framework("onnx")
    return _core().compile_model(reader.convert(reader.load(io.BytesIO(graph))), device, settings)
