"""ONNX Runtime sessions from bytes in memory, so that the hashed bytes are the ones that run."""

from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from typing import Any

from dpd_runtime.annotations import Array
from dpd_runtime.engines.calls import interruptible
from dpd_runtime.engines.engine import Provider
from dpd_runtime.errors import BundleError, DpdError, MemoryShortError, MissingExtraError, ProviderError
from dpd_runtime.machine.cores import usable_cores, usable_memory
from dpd_runtime.machine.driver import nvidia_driver

_OUT_OF_MEMORY = (
    *("Failed to allocate memory", "Available memory of", "bad allocation", "bad_alloc"),
    *("out of memory", "ALLOC_FAILED"),  # CUDA, and cuBLAS and cuDNN
    "can't start new thread",
)
_MEMORY_SHARE = 0.9
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_CUDA_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}
"""The default search times kernels, so the next run may take others; TF32 keeps 10 of float32's 23 bits."""
SHAPE_OPS = frozenset({"Shape", "Size", "Gather", "Concat", "Unsqueeze", "Squeeze", "Slice"})
"""Operators that a GPU's provider may leave to the CPU, because they compute sizes of tensors."""


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "cpu") from error
    return onnxruntime


def available_providers() -> tuple[str, ...]:
    """The providers (by our names) that the installed onnxruntime was built with."""
    listed = _import_onnxruntime().get_available_providers()
    return tuple(name for name, theirs in _PROVIDERS.items() if theirs in listed)


@cache
def _preload_cuda() -> None:
    """Load the CUDA and cuDNN libraries that pip installed: onnxruntime's own library does not find them.

    It prints what is missing, and onnxruntime logs it in colours. The session that fails next is explained in one line,
    and standard output is for --json.
    """
    _import_onnxruntime().set_default_logger_severity(4)
    with redirect_stdout(StringIO()):
        _import_onnxruntime().preload_dlls()


def check_placement(nodes: Iterable[tuple[str, str, str]], provider: str, theirs: str) -> None:
    """Check that a GPU's provider runs all nodes of a graph but those that compute sizes.

    Args:
        nodes: provider (by its own name), operator and name of each node. theirs: the provider's own name.

    Raises:
        ProviderError: other nodes would run on the CPU.
    """
    elsewhere = [f"{op} {name}" for placed, op, name in nodes if placed != theirs and op not in SHAPE_OPS]
    if elsewhere:
        raise ProviderError(
            f"provider {provider}: {len(elsewhere)} nodes would run elsewhere, such as {elsewhere[0]}; "
            "use --provider cpu, or another version of onnxruntime-gpu"
        )


def _placement(session: Any) -> list[tuple[str, str, str]]:
    """Provider, operator and name of each node. Nothing before onnxruntime 1.24, which does not tell."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return []
    parts = session.get_provider_graph_assignment_info()
    return [(part.ep_name, node.op_type, node.name) for part in parts for node in part.get_nodes()]


@cache
def _limit_memory() -> bool:
    """Use one CPU arena for all graphs, limited to this machine's memory. Done once a process.

    A small graph can request any amount of memory. Without the limit the kernel would kill this process or others.
    """
    memory = usable_memory()
    if memory is None:
        return False
    onnxruntime = _import_onnxruntime()
    info = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    own = dict.fromkeys(("arena_extend_strategy", "initial_chunk_size_bytes", "max_dead_bytes_per_chunk"), -1)
    arena = onnxruntime.OrtArenaCfg({"max_mem": int(_MEMORY_SHARE * memory), **own})
    onnxruntime.create_and_register_allocator(info, arena)
    return True


def _add_weights(options: Any, weights: Mapping[str, bytes]) -> None:
    if not hasattr(options, "add_external_initializers_from_files_in_memory"):
        raise ProviderError("weights of more than 2 GB need a newer onnxruntime: pip install --upgrade onnxruntime")
    names, contents = list(weights), list(weights.values())
    options.add_external_initializers_from_files_in_memory(names, contents, [len(content) for content in contents])


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
    ) -> None:
        """Args:
            threads: intra-op threads; None for all usable cores.
            weights: content of the files in which the graph keeps weights, by name. onnxruntime opens no file then.
            name: of the graph, for errors.

        Raises:
            ProviderError: the provider does not load.
            MemoryShortError: the graph does not fit into memory.
            BundleError: onnxruntime cannot run this graph.
        """
        onnxruntime = _import_onnxruntime()
        self._name, self._provider = name, provider.name
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or usable_cores()
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # errors are raised; the log would repeat them
        # without it onnxruntime decides by bytes of the graph, and could read another format than the one checked
        options.add_session_config_entry("session.load_model_format", "ONNX")
        if provider.name == "cpu" and _limit_memory():
            options.add_session_config_entry("session.use_env_allocators", "1")
        if weights:
            _add_weights(options, weights)
        theirs, settings = _PROVIDERS[provider.name], {}
        if provider.name == "cuda":
            _preload_cuda()
            options.use_deterministic_compute = True
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
            settings = {"device_id": str(provider.device), **_CUDA_OPTIONS}
        try:
            # the built-in fallback would print to stdout and try the CPU
            self._session = interruptible(
                lambda: onnxruntime.InferenceSession(graph, options, providers=[(theirs, settings)], enable_fallback=0),
                lambda: getattr(options, "set_load_cancellation_flag", bool)(True),  # not before 1.21
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
        self.inputs = {i.name: tuple(i.shape) for i in self._session.get_inputs()}

    def run(self, **inputs: Array) -> Array:
        options = _import_onnxruntime().RunOptions()
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
        said = " ".join(str(error).split())
        for words in _OUT_OF_MEMORY:
            if words in said:
                return MemoryShortError(
                    f"{self._name} needs more memory than is available ({said[said.index(words) :][:160]})"
                )
        if self._provider != "cpu":
            return ProviderError(f"{self._name} does not run on {self._provider} ({said[:300]}); use --provider cpu")
        return BundleError(f"{self._name} cannot be run ({said[:300]}); export the bundle again")
