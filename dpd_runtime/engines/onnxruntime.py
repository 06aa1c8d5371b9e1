"""ONNX Runtime sessions from bytes in memory: what was hashed is what runs."""

from collections.abc import Mapping
from typing import Any

from dpd_runtime.cores import usable_cores
from dpd_runtime.engines import Array, Provider
from dpd_runtime.errors import MissingExtraError, ProviderError

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
    ) -> None:
        """Args:
            threads: intra-op threads; all usable cores by default.
            weights: content of the files that the graph names for its weights. No file is opened: with this table
                onnxruntime looks nowhere else.

        Raises:
            ProviderError: the provider did not load and onnxruntime fell back to another one.
        """
        onnxruntime = _import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or usable_cores()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if weights:
            _add_weights(options, weights)
        theirs = _PROVIDERS[provider.name]
        self._session = onnxruntime.InferenceSession(graph, options, providers=[theirs])
        if self._session.get_providers()[0] != theirs:
            raise ProviderError(
                f"provider {provider.name}: onnxruntime could not load {theirs} (CUDA or cuDNN libraries missing?) "
                "and would run on the CPU; use --provider cpu to accept that"
            )
        self._output = self._session.get_outputs()[0].name
        self.inputs = {i.name: tuple(i.shape) for i in self._session.get_inputs()}

    def run(self, **inputs: Array) -> Array:
        output: Array = self._session.run([self._output], inputs)[0]
        return output
