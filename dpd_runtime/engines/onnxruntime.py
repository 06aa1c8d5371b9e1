"""ONNX Runtime sessions from bytes in memory, so that the hashed bytes are the ones that run."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from dpd_runtime.annotations import Array
from dpd_runtime.engines.calls import interruptible
from dpd_runtime.engines.engine import Provider
from dpd_runtime.engines.execution_providers import NAMES, Compilation, join_session
from dpd_runtime.engines.site_cache import keep_model
from dpd_runtime.errors import BundleError, DpdError, MemoryShortError, ProviderError
from dpd_runtime.machine.cores import memory_for_graphs, usable_cores
from dpd_runtime.machine.driver import nvidia_driver
from dpd_runtime.telemetry import import_onnxruntime
from dpd_runtime.text import counted, printable

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
