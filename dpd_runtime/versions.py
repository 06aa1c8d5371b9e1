"""Versions and CPU features on which the last bits of a result depend."""

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__version__ = "0.3.0.dev0"
"""Of this code; pyproject.toml has the same."""
RELEASED = "2026-11-29"
"""The day of the newest numbered part of CHANGELOG.md: no clock that is right shows an earlier one."""


def package_versions(*names: str) -> dict[str, str]:
    """Versions of Python and of the named packages, as far as they are installed; PyTorch's with its build."""
    installed = {"python": platform.python_version()}
    for name in names:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    if "torch" in installed and "torch" in sys.modules:
        installed["torch"] = str(sys.modules["torch"].__version__)  # 2.13.0+cu130, where its metadata may say 2.13.0
    return installed


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that the runtime uses."""
    return package_versions(
        *("dpd-distill", "numpy", "pillow", "onnxruntime", "onnxruntime-gpu", "onnxruntime-ep-nv-tensorrt-rtx-cu13"),
        *("tensorrt-cu12-libs", "tensorrt-cu13-libs", "openvino"),
    )


def cpu_flags() -> list[str]:
    """The vector extensions of this CPU. Kernels are chosen by them, and so last bits depend on them."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return []
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return sorted(f for f in flags.split() if f.startswith(("avx", "amx", "fma")))


def processor() -> str:
    """The name of the CPU, for example "AMD EPYC 9R14"."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
