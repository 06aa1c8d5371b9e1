"""Whether an engine of a bundle can be used on this machine, decided before it is loaded.

An engine is native code. The decision uses only the record beside it, its hash and the bundle's signature.
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
"""The pip package of each flavour, which is also the flavour's name, and our extra that installs it."""
NEEDS_TRUST = "engines inside a bundle are native code and load only with a trusted signature"
NOT_RUN = "this version builds and checks engines but does not run them"


def why_not_loaded(signature: Signature) -> str:
    """Why engines that fit are not loaded: no trusted signature; with one, because this version runs no engines."""
    return NOT_RUN if signature.trusted else f"{NEEDS_TRUST}, and this bundle is {signature.describe()}"


class NoEngineError(ProviderError):
    """The bundle has no engines of this flavour."""


@dataclass(frozen=True)
class Site:
    """The properties of this machine on which the use of an engine depends.

    Args:
        version: of the installed flavour. driver_cuda: the newest CUDA that the driver supports, 1000 · major +
            10 · minor (cuDriverGetVersion).
    """

    flavour: str
    version: str
    compute_capability: int
    os: str
    driver_cuda: int


def this_os() -> str:
    """Operating system and processor, for example "linux-x86_64"."""
    return f"{platform.system()}-{platform.machine()}".lower()


def this_site(flavour: str) -> Site:
    """The properties of this machine.

    Raises:
        MissingExtraError: the flavour's package is not installed.
        ProviderError: no driver, or no GPU.
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
    """Explain in one line why no engine of this flavour is used here. This version loads none.

    Args:
        files, listed, signature: the bundle's files, their entries in the manifest, and who signed it.

    Raises:
        BundleError: a damaged record.
    """
    records = {path: record for path, record in engine_records(files, listed).items() if record.flavour == flavour}
    if not records:
        return NoEngineError(f"the bundle has no {flavour} engines")
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
    """The path of the engine to load, or None for ONNX Runtime, and the reason."""

    path: str | None
    reason: str


def mismatch(record: EngineRecord, site: Site, listed: Mapping[str, FileEntry]) -> str | None:
    """The first reason why this engine cannot be used here, in one line; None if it can.

    Args:
        listed: the manifest's files, whose hashes `load_bundle` has checked.
    """
    built = f"built by {record.flavour} {record.builder_version}"
    if record.flavour != site.flavour:
        return f"{built}; requested is {site.flavour}"
    if record.builder_version != site.version:
        return f"{built}; installed is {site.version}, and an engine loads only in its own version"
    if site.compute_capability not in record.compute_capabilities:
        wanted = ", ".join(map(str, record.compute_capabilities))
        return f"built for compute capability {wanted}; this GPU has {site.compute_capability}"
    if record.os != site.os:
        return f"built for {record.os}; this is {site.os}"
    if site.driver_cuda // 1000 < record.cuda:
        served = f"{site.driver_cuda // 1000}.{site.driver_cuda % 1000 // 10}"
        return f"needs a driver for CUDA {record.cuda}; this driver supports CUDA {served}"
    for path, sha256 in record.sources.items():
        if path not in listed or listed[path].sha256 != sha256:
            return f"built from another {path} than the bundle's"
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
    """Choose the engine of `graph` for `batch` rows: the static one, else the one with the narrowest profile.

    Args:
        files, listed: the bundle's files and their entries in the manifest.
        signature: the bundle's, from `load_bundle`.

    Raises:
        ProviderError: `requested` is a flavour and no engine can be used. With "auto", ONNX Runtime is chosen then.
        BundleError: a damaged record.
    """
    reasons, usable = [], []
    for path, record in engine_records(files, listed).items():
        if record.graph != graph or record.flavour != site.flavour:
            continue
        low, high = record.batches
        reason = mismatch(record, site, listed)
        if reason is None and not low <= batch <= high:
            reason = f"its batches are {low} … {high}; requested is {batch}"
        if reason is None and (path not in listed or listed[path] != FileEntry(record.sha256, record.bytes)):
            reason = "its record is of another engine"
        if reason is not None:
            reasons.append(f"{path}: {reason}")
        else:
            usable.append((high - low, path))
    if usable and signature.trusted:
        return Choice(min(usable)[1], "fits this machine")
    if usable:
        reasons = [f"{min(usable)[1]}: {why_not_loaded(signature)}"]
    found = reasons[0] if reasons else f"the bundle has no {site.flavour} engine of {graph}"
    if requested == "auto":
        return Choice(None, f"{found}; ONNX Runtime runs the graph")
    raise ProviderError(f"provider {requested}: {found}; use --provider cuda or cpu")
