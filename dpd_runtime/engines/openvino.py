"""OpenVINO on bytes in memory, so that the hashed bytes are the ones that run.

It is Intel's own package, not its plugin for ONNX Runtime, which lists no device on processors of others.
"""

import io
from functools import cache
from threading import Lock
from typing import Any

import numpy as np

from dpd_runtime.annotations import Array
from dpd_runtime.engines.calls import interruptible
from dpd_runtime.engines.engine import BF16, Provider
from dpd_runtime.errors import DpdError, MemoryShortError, ProviderError
from dpd_runtime.machine.cores import usable_cores
from dpd_runtime.telemetry import import_openvino
from dpd_runtime.text import printable

_OUT_OF_MEMORY = ("Failed to allocate", "bad_alloc", "bad allocation", "out of memory", "OUT_OF_RESOURCES")


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
        for words in _OUT_OF_MEMORY:
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
