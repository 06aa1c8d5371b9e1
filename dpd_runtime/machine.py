"""This machine: cores and memory, NVIDIA's driver, what is found on it."""

import ctypes
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpd_runtime.errors import ProviderError

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]


# -- The cores and the memory that this process may use. The limits of a container count, not the host's size.


ROOT = Path("/")
GRAPHS_SHARE = 0.9
"""Of the memory that this process may use: what graphs may take."""
LOOKED = 0.5
"""Seconds in which `idle_cores` looks at the other programs."""


def usable_cores(root: Path = ROOT) -> int:
    """The number of cores in the affinity mask, or fewer if a control group has a CPU quota (rounded down).

    Args:
        root: folder that contains /proc and /sys.
    """
    mine = _affinity()
    cores = os.cpu_count() or 1 if mine is None else len(mine)
    quotas = [*_second_version(root), *_first_version(root)]
    return max(1, min([cores, *map(int, quotas)]))


def idle_cores(root: Path = ROOT, seconds: float = LOOKED) -> int:
    """Cores that this process may use and other programs do not, at least one; all where the system does not tell.

    What counts is the work of these `seconds`, in which this thread sleeps. The load average would still count programs
    that have ended. Programs of lower priority (nice) do not count, as they give way.
    """
    before = _ticks(root)
    time.sleep(seconds)
    after = _ticks(root)
    busy = 0.0
    for core in set(before) & set(after):
        work, all_ticks = (late - early for late, early in zip(after[core], before[core], strict=True))
        busy += work / max(1, all_ticks)
    return max(1, usable_cores(root) - round(busy))


def _ticks(root: Path) -> dict[int, tuple[int, int]]:
    """Ticks of work, and all ticks, of each core that this process may use, since the start of the system (proc(5))."""
    mine, found = _affinity(), {}
    for line in _read(root / "proc/stat").splitlines():
        match = re.match(r"cpu(\d+) " + " ".join([r"(\d+)"] * 8), line)
        if match is not None and (mine is None or int(match[1]) in mine):
            core, user, nice, system, idle, wait, hard, soft, stolen = map(int, match.groups())
            work = user + system + hard + soft + stolen
            found[core] = work, work + nice + idle + wait
    return found


def _affinity() -> set[int] | None:
    """The cores of the affinity mask; None where the system has none."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None


def usable_memory(root: Path = ROOT) -> int | None:
    """Bytes of memory that this process may use, with the limits of ulimit; None if unknown."""
    texts = _settings(root, "", "", "memory.max") + _settings(root, "memory", "memory", "memory.limit_in_bytes")
    limits = [int(text) for text in texts if text.isdigit()]
    limits += [size for name, size in _memory_sizes(root).items() if name == "MemTotal"]
    if resource is not None:
        soft = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
        limits += [limit for limit in soft if limit != resource.RLIM_INFINITY]
    return min(limits, default=None)


def memory_for_graphs(root: Path = ROOT) -> int | None:
    """Bytes of memory that graphs may take: a share of `usable_memory`, less where other programs have it.

    Without that, a large model beside other programs would be ended by the system, or end one of them. None if unknown.
    """
    memory, sizes = usable_memory(root), _memory_sizes(root)
    if memory is None:
        return None
    free = sizes["MemAvailable"] + sizes.get("SwapFree", 0) if "MemAvailable" in sizes else memory
    return min(int(GRAPHS_SHARE * memory), free)


def _memory_sizes(root: Path) -> dict[str, int]:
    """Bytes by name, as /proc/meminfo has them (proc(5))."""
    lines = [re.match(r"(\w+): +(\d+) kB", line) for line in _read(root / "proc/meminfo").splitlines()]
    return {match[1]: int(match[2]) * 1024 for match in lines if match}


def _second_version(root: Path) -> Iterator[float]:
    for text in _settings(root, "", "", "cpu.max"):
        quota, _, period = text.partition(" ")
        if quota.isdigit() and period.isdigit() and int(period):
            yield int(quota) / int(period)


def _first_version(root: Path) -> Iterator[float]:
    for folder in ("cpu", "cpu,cpuacct"):
        quotas = _settings(root, "cpu", folder, "cpu.cfs_quota_us")
        periods = _settings(root, "cpu", folder, "cpu.cfs_period_us")
        for quota, period in zip(quotas, periods, strict=False):
            if quota.isdigit() and period.isdigit() and int(period):  # −1 means no quota
                yield int(quota) / int(period)


def _settings(root: Path, controller: str, mounted: str, name: str) -> list[str]:
    """The content of the file `name` in our control group and in all groups above it.

    In a container the path of the group may be the host's; then only the top group can be read.

    Args:
        controller: "" for cgroup version 2.
    """
    group = ""
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, names, path = (*line.split(":", 2), "", "")[:3]
        if controller in names.split(",") if controller else number == "0":
            group = path.strip("/")
    top = root / "sys/fs/cgroup" / mounted
    folders = [top, *(top.joinpath(*group.split("/")[: depth + 1]) for depth in range(len(group.split("/"))))]
    return [text for folder in dict.fromkeys(folders) if (text := _read(folder / name).strip())]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


# -- The NVIDIA driver and its GPUs, read through the driver's own library without any package.


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


# -- GPUs as ONNX Runtime discovers them for plugins, beside those that the driver lists.
#
# On Linux it reads /sys/class/drm, and /sys/bus/pci where that has no cards (core/platform/linux/device_discovery.cc).
# Its order need not be CUDA's, so a GPU is looked up by its address on the PCI bus.


LEAST_CAPABILITY = 80
"""10 · major + minor of the oldest GPUs that TensorRT for RTX computes on."""
CAUSES = {
    "dev/dxg": "under WSL it discovers none (microsoft/onnxruntime#27286)",
    "etc/nv_tegra_release": "on Jetson it discovers none (microsoft/onnxruntime#32541)",
}
"""A file that a system has → why ONNX Runtime discovers no GPU there."""
CARDS = "on some virtual machines it reads an incomplete /sys/class/drm (microsoft/onnxruntime#27806)"


def discovered(devices: Sequence[Any], gpu: Gpu, number: int) -> Any | None:
    """The discovered device that is this GPU; None if there is none.

    Args:
        devices: onnxruntime's OrtEpDevice of one plugin.
        number: the GPU's number in CUDA. It decides only where no device tells its PCI address.
    """
    places = [str(device.device.metadata.get("pci_bus_id", "")).lower() for device in devices]
    if gpu.pci_bus_id and any(places):
        return devices[places.index(gpu.pci_bus_id.lower())] if gpu.pci_bus_id.lower() in places else None
    return devices[number] if number < len(devices) else None


def why_not_discovered(gpu: Gpu, root: Path = Path("/")) -> str:
    """The known cause why ONNX Runtime does not discover a GPU that the driver lists, in one line."""
    major, minor = divmod(gpu.compute_capability, 10)
    if gpu.compute_capability < LEAST_CAPABILITY:
        return f"{gpu.name} has compute capability {major}.{minor}, and 8.0 is the least"
    cause = next((cause for name, cause in CAUSES.items() if (root / name).exists()), CARDS)
    return f"ONNX Runtime does not discover {gpu.name}, which the driver lists: {cause}; --provider cuda may work"
