"""Whether an engine of the bundle fits this machine: decided before anything of it is loaded.

An engine is native code, so it is judged by the record beside it, by its hash and by the bundle's signature.
"""

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from dpd_runtime.bundle.manifest import FileEntry
from dpd_runtime.bundle.signature import UNSIGNED, Signature
from dpd_runtime.engines.record import EngineRecord, engine_records
from dpd_runtime.errors import MissingExtraError, ProviderError
from dpd_runtime.machine.driver import working_driver

FLAVOURS = {"tensorrt-rtx": "rtx", "tensorrt": "trt"}
"""pip package of each flavour, which is its name too, and the extra of ours that brings it."""
NEEDS_TRUST = "engines inside a bundle are native code and load only with a trusted signature"
NOT_RUN = "this version builds and checks engines and does not run them"


def why_not_loaded(signature: Signature) -> str:
    """What keeps engines that fit from being loaded: the signature, and with a good one this version."""
    return NOT_RUN if signature.trusted else f"{NEEDS_TRUST}, and this bundle is {signature.describe()}"


class NoEngineError(ProviderError):
    """A bundle without engines of this flavour."""


@dataclass(frozen=True)
class Site:
    """What this machine would load an engine with.

    Args:
        version: of the installed flavour. driver_cuda: the newest CUDA that the driver serves, as 1000 · major +
            10 · minor (cuDriverGetVersion).
    """

    flavour: str
    version: str
    compute_capability: int
    os: str
    driver_cuda: int


def this_os() -> str:
    """For example "linux-x86_64"."""
    return f"{platform.system()}-{platform.machine()}".lower()


def this_site(flavour: str) -> Site:
    """Raises:
    MissingExtraError: the flavour's package or cuda-bindings are not installed. ProviderError: no driver, or no GPU.
    """
    try:
        installed = version(flavour)
    except PackageNotFoundError as error:
        raise MissingExtraError(flavour, FLAVOURS[flavour]) from error
    driver = working_driver()
    return Site(flavour, installed, driver.gpus[0].compute_capability, this_os(), driver.cuda)


def refuse_engines(
    files: Mapping[str, bytes],
    listed: Mapping[str, FileEntry],
    flavour: str,
    signature: Signature,
    site: Callable[[str], Site] = this_site,
) -> ProviderError:
    """Why no engine of this flavour is used here, in one line. This version loads none.

    Args:
        files, listed, signature: the bundle's content, the manifest's entries for it, and who signed it.

    Raises:
        BundleError: a broken record.
    """
    records = {path: record for path, record in engine_records(files, listed).items() if record.flavour == flavour}
    if not records:
        return NoEngineError(f"the bundle holds no {flavour} engines")
    try:
        here = site(flavour)
    except (MissingExtraError, ProviderError) as error:
        return ProviderError(f"its {flavour} engines cannot run here: {error}")
    reasons = {path: mismatch(record, here, listed) for path, record in records.items()}
    if None in reasons.values():
        return ProviderError(f"its {flavour} engines are not loaded: {why_not_loaded(signature)}")
    path, reason = next(iter(reasons.items()))
    return ProviderError(f"its {flavour} engines do not fit: {path}: {reason}")


@dataclass(frozen=True)
class Choice:
    """path of the engine to load, or None: ONNX Runtime; and why."""

    path: str | None
    reason: str


def mismatch(record: EngineRecord, site: Site, listed: Mapping[str, FileEntry]) -> str | None:
    """The first reason why this engine cannot be used here, as one line; None where it fits.

    Args:
        listed: the manifest's files, whose hashes `load_bundle` has checked.
    """
    built = f"built by {record.flavour} {record.builder_version}"
    if record.flavour != site.flavour:
        return f"{built}, asked for is {site.flavour}"
    if record.builder_version != site.version:
        return f"{built}, here is {site.version}, and engines load in their own version only"
    if site.compute_capability not in record.compute_capabilities:
        wanted = ", ".join(map(str, record.compute_capabilities))
        return f"built for compute capability {wanted}, this GPU has {site.compute_capability}"
    if record.os != site.os:
        return f"built for {record.os}, this is {site.os}"
    if site.driver_cuda // 1000 < record.cuda:
        served = f"{site.driver_cuda // 1000}.{site.driver_cuda % 1000 // 10}"
        return f"needs a driver for CUDA {record.cuda}, this driver serves CUDA {served}"
    for path, sha256 in record.sources.items():
        if path not in listed or listed[path].sha256 != sha256:
            return f"built from another {path} than the bundle holds"
    return None


def choose_engine(
    files: Mapping[str, bytes],
    listed: Mapping[str, FileEntry],
    graph: str,
    batch: int,
    site: Site,
    *,
    requested: str = "auto",
    signature: Signature = UNSIGNED,
) -> Choice:
    """The engine of `graph` for `batch` rows: the static one, else the one with the narrowest profile around it.

    Args:
        files, listed: the bundle's content and the manifest's entries for it.
        signature: the bundle's, as `load_bundle` found it.

    Raises:
        ProviderError: `requested` names a flavour and no engine can be used. With "auto" the choice is ONNX Runtime.
        BundleError: a broken record.
    """
    reasons, usable = [], []
    for path, record in engine_records(files, listed).items():
        if record.graph != graph or record.flavour != site.flavour:
            continue
        low, high = record.batches
        reason = mismatch(record, site, listed)
        if reason is None and not low <= batch <= high:
            reason = f"its batches are {low} … {high}, this is {batch}"
        if reason is None and (path not in listed or listed[path] != FileEntry(record.sha256, record.bytes)):
            reason = "its record speaks of another engine"
        if reason is not None:
            reasons.append(f"{path}: {reason}")
        else:
            usable.append((high - low, path))
    if usable and signature.trusted:
        return Choice(min(usable)[1], "fits this machine")
    if usable:
        reasons = [f"{min(usable)[1]}: {why_not_loaded(signature)}"]
    found = reasons[0] if reasons else f"the bundle holds no {site.flavour} engine of {graph}"
    if requested == "auto":
        return Choice(None, f"{found}; ONNX Runtime runs the graph")
    raise ProviderError(f"provider {requested}: {found}; use --provider cuda or cpu")
