"""The NVIDIA driver and its GPUs, read through the driver's own library without any package."""

import ctypes
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpd_runtime.errors import ProviderError

FIRST_DRIVER = {12: "525.60.13", 13: "580.65.06"}
"""The oldest Linux driver that supports all minor versions of a CUDA major version (NVIDIA, CUDA compatibility)."""
LIBRARIES = (
    "libcuda.so.1",
    "/usr/lib/wsl/lib/libcuda.so.1",
    "/usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1",  # Jetson
    "libcuda.so",
    "nvcuda.dll",  # Windows
)
"""Where the driver's library is, on systems whose linker does not find the first name too."""
MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_…


@dataclass(frozen=True)
class Gpu:
    """A GPU. compute_capability: 10 · major + minor. memory: bytes. pci_bus_id: as "0000:65:00.0", if it is told."""

    name: str
    compute_capability: int
    memory: int
    pci_bus_id: str | None = None


@dataclass(frozen=True)
class Driver:
    """A driver, or why there is none.

    Args:
        version: for example "580.95.05"; None if unknown.
        cuda: the newest CUDA that it supports, 1000 · major + 10 · minor; 0 if there is no driver.
        problem: why no GPU can be used; None if one can.
    """

    version: str | None
    cuda: int
    gpus: tuple[Gpu, ...]
    problem: str | None

    def too_old_for(self, cuda_major: int) -> str | None:
        """Why code for this CUDA major version cannot run, in one line; None if it can."""
        if self.problem is not None:
            return self.problem
        if self.cuda // 1000 >= cuda_major:
            return None
        floor = FIRST_DRIVER.get(cuda_major)
        needed = f"driver {floor} or newer" if floor else "a newer driver"
        version = self.version or "of unknown version"
        return f"the driver ({version}) supports CUDA {cuda_version(self.cuda)}; CUDA {cuda_major} needs {needed}"


def cuda_version(number: int) -> str:
    """13020 → 13.2."""
    return f"{number // 1000}.{number % 1000 // 10}"


def nvidia_driver(libraries: Sequence[str] = LIBRARIES, module: Path = Path("/proc/driver/nvidia/version")) -> Driver:
    """Read the driver and its GPUs.

    Args:
        libraries: names of the driver's library; the first that loads is used.
        module: file with the version of its kernel module.
    """
    version = _module_version(module)
    library, cuda = next(_loaded(libraries), (libraries[0], None))
    if cuda is None:
        beside = f" (kernel module {version} is loaded; was the container started with --gpus?)" if version else ""
        return Driver(version, 0, (), f"no NVIDIA driver: {library} is not found{beside}")
    try:
        served = ctypes.c_int()
        _ask(cuda.cuDriverGetVersion, ctypes.byref(served))
    except (AttributeError, RuntimeError) as error:
        return Driver(version, 0, (), f"{library} is not a working driver ({error})")
    try:
        gpus = _gpus(cuda)
    except (AttributeError, RuntimeError) as error:
        return Driver(version, served.value, (), f"the driver finds no GPU ({error})")
    return Driver(version, served.value, gpus, None if gpus else "the driver finds no GPU")


def working_driver() -> Driver:
    """The driver of a usable GPU. The first of its GPUs is the one that is used.

    Raises:
        ProviderError: no GPU can be used.
    """
    driver = nvidia_driver()
    if driver.problem is not None:
        raise ProviderError(f"no NVIDIA GPU can be used here ({driver.problem})")
    return driver


def gpu_name(number: int) -> str:
    """The name of a GPU; "GPU 1" if the driver does not tell it."""
    gpus = nvidia_driver().gpus
    return gpus[number].name if number < len(gpus) else f"GPU {number}"


def _loaded(libraries: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for library in libraries:
        with suppress(OSError):
            yield library, ctypes.CDLL(library)


def _gpus(cuda: Any) -> tuple[Gpu, ...]:
    _ask(cuda.cuInit, 0)
    count = ctypes.c_int()
    _ask(cuda.cuDeviceGetCount, ctypes.byref(count))
    gpus = []
    for number in range(count.value):
        device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(128), ctypes.c_size_t()
        parts = (ctypes.c_int(), ctypes.c_int())
        _ask(cuda.cuDeviceGet, ctypes.byref(device), number)
        _ask(cuda.cuDeviceGetName, name, 128, device)
        _ask(cuda.cuDeviceTotalMem_v2, ctypes.byref(memory), device)
        for part, attribute in zip(parts, (MAJOR, MINOR), strict=True):
            _ask(cuda.cuDeviceGetAttribute, ctypes.byref(part), attribute, device)
        major, minor = (part.value for part in parts)
        gpus.append(Gpu(name.value.decode(errors="replace"), 10 * major + minor, memory.value, _pci(cuda, device)))
    return tuple(gpus)


def _pci(cuda: Any, device: Any) -> str | None:
    place = ctypes.create_string_buffer(32)
    try:
        _ask(cuda.cuDeviceGetPCIBusId, place, len(place), device)
    except (AttributeError, RuntimeError):
        return None
    return place.value.decode(errors="replace") or None


def _ask(function: Callable[..., int], *arguments: object) -> None:
    code = function(*arguments)
    if code != 0:
        raise RuntimeError(f"CUDA error {code}")


def _module_version(path: Path) -> str | None:
    try:
        match = re.search(r"\b(\d{3}\.\d+(\.\d+)?)\b", path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    return match[1] if match else None
