"""What this machine is, which providers work on it, and why others do not. Errors become findings; nothing here raises.

Each provider is tried as `dpd generate` would: a wheel may list a provider without its libraries or driver.
"""

import os
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec

import numpy as np

from dpd_runtime.bundle import Bundle
from dpd_runtime.engines import RTX_PACKAGE, RTX_PLUGIN, Provider
from dpd_runtime.errors import DpdError, MissingExtraError
from dpd_runtime.installation import install_command
from dpd_runtime.machine import FIRST_DRIVER, Driver, usable_cores, usable_memory
from dpd_runtime.networks import LATENT_CLASSIFIER, PROVIDERS, decode, latent_logits, smallest_graph
from dpd_runtime.sessions import HERE
from dpd_runtime.telemetry import describe_telemetry
from dpd_runtime.versions import cpu_flags, processor, versions

MODULES = {
    "cpu": ("onnxruntime", "onnxruntime", "cpu"),
    "openvino": ("openvino", "openvino", "openvino"),
    "cuda": ("onnxruntime", "onnxruntime-gpu", "gpu"),
    "tensorrt": ("tensorrt_libs", "tensorrt-cu13-libs", "trt"),
    "tensorrt-rtx": (RTX_PLUGIN, RTX_PACKAGE, "rtx"),
}
"""provider → its module, its distribution, our extra."""
ON_CPU = ("cpu", "openvino")
"""Providers that need no driver."""
SETTINGS = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "LD_LIBRARY_PATH")


@dataclass(frozen=True)
class Machine:
    """The properties of a machine.

    Args:
        cores: of the host. usable_cores: within affinity and quota; `dpd generate` uses these.
        memory: bytes that this process may use; None if unknown.
        versions: of Python, dpd and the packages that `dpd generate` uses.
        settings: environment variables that affect threads or devices.
        telemetry: whether the libraries' telemetry is off, in words.
    """

    system: str
    processor: str
    cpu_flags: tuple[str, ...]
    cores: int
    usable_cores: int
    memory: int | None
    versions: dict[str, str]
    settings: dict[str, str]
    telemetry: str


def this_machine() -> Machine:
    return Machine(
        system=platform.platform(),
        processor=processor(),
        cpu_flags=tuple(cpu_flags()),
        cores=os.cpu_count() or 1,
        usable_cores=usable_cores(),
        memory=usable_memory(),
        versions=versions(),
        settings={name: os.environ[name] for name in SETTINGS if name in os.environ},
        telemetry=describe_telemetry(),
    )


@dataclass(frozen=True)
class ProviderFinding:
    """The result for one provider.

    Args:
        reason: why it is not usable; if it is, what was run.
        version: of its package. needs: the oldest driver that it works with, if it needs one.
    """

    name: str
    usable: bool
    reason: str
    version: str | None
    needs: str | None


def examine_providers(bundle: Bundle | None, driver: Driver) -> list[ProviderFinding]:
    """One finding for each provider but `auto`.

    Args:
        bundle: its smallest graph is run; None if no bundle could be opened.
    """
    return [_examine(name, bundle, driver) for name in PROVIDERS if name != "auto"]


def _examine(name: str, bundle: Bundle | None, driver: Driver) -> ProviderFinding:
    module, package, extra = MODULES[name]
    version, cuda = _version(package, module), None if name in ON_CPU else _cuda_major(name)
    needs = None if cuda is None else f"CUDA {cuda}, driver {FIRST_DRIVER.get(cuda, 'unknown')} or newer"

    def problem() -> str | None:
        if find_spec(module) is None:
            return str(MissingExtraError(package, extra))
        if name == "cuda" and "cuda" not in (HERE if bundle is None else bundle.host).available_providers():
            return f"onnxruntime is installed without CUDA: pip uninstall onnxruntime, {install_command('gpu')}"
        if name not in ON_CPU and (said := driver.too_old_for(cuda or 0)) is not None:
            return said
        return "no bundle could be opened to try it" if bundle is None else _run(name, bundle)

    reason = _said(problem)
    works = f"ran {smallest_graph(bundle)} of {bundle.manifest.name}" if bundle is not None else ""
    return ProviderFinding(name, reason is None, works if reason is None else reason, version, needs)


def _said(problem: Callable[[], str | None]) -> str | None:
    """The problem in one line, also if the search for it fails: libraries raise errors of many types."""
    try:
        reason = problem()
    except DpdError as error:
        reason = str(error)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    return None if reason is None else " ".join(reason.split())[:400]


def _run(name: str, bundle: Bundle) -> str | None:
    """Run the smallest graph on fixed latents. Returns what is wrong with its output, or None."""
    graph, manifest = smallest_graph(bundle), bundle.manifest
    engine = bundle.engine(graph, Provider(name, "tried"))
    latents = np.zeros((manifest.sampler.compute_batch, *manifest.latent_shape), np.float32)
    judged = graph == LATENT_CLASSIFIER
    output = latent_logits(engine, latents, len(bundle.classes)) if judged else decode(engine, latents, manifest)
    return None if np.isfinite(output).all() else f"{graph} gave NaN or infinite numbers"


def _version(package: str, module: str) -> str | None:
    for name in (package, module, f"{module}-gpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _cuda_major(name: str) -> int | None:
    """The CUDA major version that the installed package was built for, from the names of its dependencies."""
    if name == "cuda":
        try:
            required = metadata.requires("onnxruntime-gpu") or []
        except metadata.PackageNotFoundError:
            return None
        text = " ".join(required)
        match = re.search(r"cuda-runtime(?:-cu(\d+)|[^;]*?(\d+)\.)", text)
        return int(match[1] or match[2]) if match else None
    stem = name.replace("-", "[-_]")
    for distribution in metadata.distributions():
        match = re.fullmatch(rf"(?:onnxruntime-ep-nv-)?{stem}[-_]cu(\d+)([-_].*)?", distribution.metadata["Name"] or "")
        if match:
            return int(match[1])
    return None
