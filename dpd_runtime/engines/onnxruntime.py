"""ONNX Runtime sessions from bytes in memory: what was hashed is what runs."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from dpd_runtime.annotations import Array
from dpd_runtime.engines.engine import Provider
from dpd_runtime.errors import BundleError, DpdError, MemoryShortError, MissingExtraError, ProviderError
from dpd_runtime.machine.cores import usable_cores, usable_memory

_OUT_OF_MEMORY = (
    *("Failed to allocate memory", "Available memory of", "bad allocation", "bad_alloc"),
    *("out of memory", "ALLOC_FAILED"),  # CUDA, and cuBLAS and cuDNN
)
_MEMORY_SHARE = 0.9
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "cpu") from error
    return onnxruntime


def available_providers() -> tuple[str, ...]:
    """Which of our provider names the installed onnxruntime was built with."""
    listed = _import_onnxruntime().get_available_providers()
    return tuple(name for name, theirs in _PROVIDERS.items() if theirs in listed)


@cache
def _limit_memory() -> bool:
    """One arena for all graphs on the CPU, which refuses to grow beyond this machine's memory; once a process.

    A graph can ask for any amount in a few bytes. Without the limit the kernel would end this process, or others.
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
        raise ProviderError(
            "this bundle's weights are beyond 2 GB and need a newer onnxruntime: pip install --upgrade it"
        )
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
            threads: intra-op threads; all usable cores by default.
            weights: content of the files that the graph names for its weights. No file is opened: with this table
                onnxruntime looks nowhere else.
            name: of the graph, for errors.

        Raises:
            ProviderError: the provider did not load and onnxruntime fell back to another one, or memory is short.
            BundleError: no graph that this onnxruntime can run.
        """
        onnxruntime = _import_onnxruntime()
        self._name, self._provider = name, provider.name
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or usable_cores()
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what goes wrong is raised; the log would say it twice
        if provider.name == "cpu" and _limit_memory():
            options.add_session_config_entry("session.use_env_allocators", "1")
        if weights:
            _add_weights(options, weights)
        theirs = _PROVIDERS[provider.name]
        try:
            # its own fallback would talk on stdout and try again on the CPU
            self._session = onnxruntime.InferenceSession(graph, options, providers=[theirs], enable_fallback=0)
        except Exception as error:  # onnxruntime's own are subclasses of nothing else
            raise self._explained(error) from error
        if self._session.get_providers()[0] != theirs:
            raise ProviderError(
                f"provider {provider.name}: onnxruntime could not load {theirs} (CUDA or cuDNN libraries missing?) "
                "and would run on the CPU; use --provider cpu to accept that"
            )
        self._output = self._session.get_outputs()[0].name
        self.inputs = {i.name: tuple(i.shape) for i in self._session.get_inputs()}

    def run(self, **inputs: Array) -> Array:
        try:
            output: Array = self._session.run([self._output], inputs)[0]
        except Exception as error:
            raise self._explained(error) from error
        return output

    def _explained(self, error: Exception) -> DpdError:
        """The bundle's fault on a CPU; on a GPU, or out of memory, it may be the machine's."""
        said = " ".join(str(error).split())
        for words in _OUT_OF_MEMORY:
            if words in said:
                return MemoryShortError(
                    f"{self._name} needs more memory than there is ({said[said.index(words) :][:160]})"
                )
        if self._provider != "cpu":
            return ProviderError(f"{self._name} does not run on {self._provider} ({said[:300]}); use --provider cpu")
        return BundleError(f"{self._name} cannot be run ({said[:300]}); export the bundle again")
