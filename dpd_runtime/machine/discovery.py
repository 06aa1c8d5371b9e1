"""GPUs as ONNX Runtime discovers them for plugins, beside those that the driver lists.

On Linux it reads /sys/class/drm, and /sys/bus/pci where that has no cards (core/platform/linux/device_discovery.cc).
Its order need not be CUDA's, so a GPU is looked up by its address on the PCI bus.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dpd_runtime.machine.driver import Gpu

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
