"""Each provider tried as `dpd generate` would: a wheel that lists one need not find its libraries or its driver."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec

import numpy as np

from dpd_runtime.bundle.bundle import Bundle
from dpd_runtime.bundle.engine_fit import FLAVOURS
from dpd_runtime.engines.engine import Provider
from dpd_runtime.errors import DpdError, MissingExtraError
from dpd_runtime.generation.networks import JUDGE
from dpd_runtime.generation.providers import PROVIDERS
from dpd_runtime.machine.driver import FIRST_DRIVER, Driver

MODULES = {
    "cpu": ("onnxruntime", "onnxruntime", "cpu"),
    "cuda": ("onnxruntime", "onnxruntime-gpu", "gpu"),
} | {flavour: (flavour.replace("-", "_"), flavour, extra) for flavour, extra in FLAVOURS.items()}
"""provider → its module, its distribution, our extra."""


@dataclass(frozen=True)
class ProviderFinding:
    """Args:
    reason: why it is not usable, else what was run.
    version: of its package. needs: its driver floor, where it has one.
    """

    name: str
    usable: bool
    reason: str
    version: str | None
    needs: str | None


def examine_providers(bundle: Bundle | None, driver: Driver) -> list[ProviderFinding]:
    """One finding for each provider but `auto`, whatever happens.

    Args:
        bundle: whose smallest graph is run; None where none could be opened.
    """
    return [_examine(name, bundle, driver) for name in PROVIDERS if name != "auto"]


def _examine(name: str, bundle: Bundle | None, driver: Driver) -> ProviderFinding:
    module, package, extra = MODULES[name]
    version, cuda = _version(package, module), None if name == "cpu" else _cuda_major(name)
    needs = None if cuda is None else f"CUDA {cuda}, driver {FIRST_DRIVER.get(cuda, 'unknown')} or newer"

    def problem() -> str | None:
        if find_spec(module) is None:
            return str(MissingExtraError(package, extra))
        if name == "cuda" and not _built_with_cuda():
            return 'this onnxruntime has no CUDA: pip uninstall onnxruntime, then pip install "dpd-distill[gpu]"'
        if name != "cpu" and (said := driver.too_old_for(cuda or 0)) is not None:
            return said
        return "no bundle could be opened to try it" if bundle is None else _run(name, bundle)

    reason = _said(problem)
    works = f"ran {JUDGE} of {bundle.manifest.name}" if bundle is not None else ""
    return ProviderFinding(name, reason is None, works if reason is None else reason, version, needs)


def _said(problem: Callable[[], str | None]) -> str | None:
    """The problem in one line, also where looking for it goes wrong: libraries fail in ways of their own."""
    try:
        found = problem()
    except DpdError as error:
        found = str(error)
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
    return None if found is None else " ".join(found.split())[:400]


def _run(name: str, bundle: Bundle) -> str | None:
    """What is wrong with the answer; the same latents that any provider gets."""
    engine = bundle.engine(JUDGE, Provider(name, "tried"))
    latents = np.zeros((bundle.manifest.sampler.compute_batch, *bundle.manifest.latent_shape), np.float32)
    answer = engine.run(latents=latents)
    wanted = (len(latents), len(bundle.classes))
    if answer.shape != wanted or not np.isfinite(answer).all():
        return f"{JUDGE} gave {answer.shape} instead of {wanted} finite numbers"
    return None


def _built_with_cuda() -> bool:
    from dpd_runtime.engines.onnxruntime import available_providers

    return "cuda" in available_providers()


def _version(package: str, module: str) -> str | None:
    for name in (package, module):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _cuda_major(name: str) -> int | None:
    """Of the CUDA that the installed package was built for, by the names of what it needs."""
    if name == "cuda":
        try:
            required = metadata.requires("onnxruntime-gpu") or []
        except metadata.PackageNotFoundError:
            return None
        text = " ".join(required)
        found = re.search(r"cuda-runtime(?:-cu(\d+)|[^;]*?(\d+)\.)", text)
        return int(found[1] or found[2]) if found else None
    stem = name.replace("-", "[-_]")
    for distribution in metadata.distributions():
        found = re.fullmatch(rf"{stem}[-_]cu(\d+)([-_].*)?", distribution.metadata["Name"] or "")
        if found:
            return int(found[1])
    return None
