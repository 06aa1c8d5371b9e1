"""The GPU of this machine, asked through the driver alone."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from dpd_runtime.errors import MissingExtraError, ProviderError


@dataclass(frozen=True)
class Gpu:
    """compute_capability: 10 · major + minor. driver_cuda: 1000 · major + 10 · minor of the newest CUDA it serves."""

    name: str
    compute_capability: int
    driver_cuda: int


def local_gpu() -> Gpu:
    """The first GPU.

    Raises:
        MissingExtraError: no cuda-bindings.
        ProviderError: no driver, or no GPU.
    """
    try:
        driver: Any = import_module("cuda.bindings.driver")
    except ImportError as error:
        raise MissingExtraError("cuda-bindings", "trt") from error
    try:
        _ask(driver.cuInit(0))
        device = _ask(driver.cuDeviceGet(0))
        attribute = driver.CUdevice_attribute
        major = _ask(driver.cuDeviceGetAttribute(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device))
        minor = _ask(driver.cuDeviceGetAttribute(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device))
        name = _ask(driver.cuDeviceGetName(128, device)).split(b"\0")[0].decode()
        return Gpu(name, 10 * int(major) + int(minor), int(_ask(driver.cuDriverGetVersion())))
    except RuntimeError as error:  # cuda-pathfinder's, where there is no libcuda, and ours
        raise ProviderError(f"no NVIDIA GPU can be used here ({str(error).splitlines()[0][:120]})") from error


def _ask(answer: tuple[Any, ...]) -> Any:
    """cuda-bindings answer (error, value)."""
    if int(answer[0]) != 0:
        raise RuntimeError(f"CUDA error {answer[0]!r}")
    return answer[1] if len(answer) > 1 else None
