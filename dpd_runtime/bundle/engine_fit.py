"""Whether an engine of a bundle can be used on this machine, decided before it is loaded.

An engine is native code. The decision uses only the record beside it, its hash and the bundle's signature.
"""

import platform
from collections.abc import Mapping
from dataclasses import dataclass

from dpd_runtime.bundle.manifest import FileEntry
from dpd_runtime.bundle.signature import Signature
from dpd_runtime.engines.record import EngineRecord, engine_records
from dpd_runtime.errors import ProviderError
from dpd_runtime.machine.driver import cuda_version, working_driver

NEEDS_TRUST = "engines inside a bundle are native code and load only with a trusted signature"
NOT_RUN = "they load where they fit; this project has run none on a GPU"


def what_loads(signature: Signature) -> str:
    """Whether the engines of a bundle load, by who signed it."""
    return NOT_RUN if signature.trusted else f"{NEEDS_TRUST}, and this bundle is {signature.describe()}"


@dataclass(frozen=True)
class Site:
    """The properties of this machine on which the use of an engine depends.

    Args:
        version: of the TensorRT that the provider loads. driver: its version, if it tells it. driver_cuda: the newest
            CUDA that the driver supports, 1000 · major + 10 · minor (cuDriverGetVersion).
    """

    flavour: str
    version: str
    gpu: str
    compute_capability: int
    os: str
    driver: str | None
    driver_cuda: int

    @property
    def folder(self) -> str:
        """A name for what was compiled here: another version, GPU or driver compiles anew."""
        gpu = "".join(letter if letter.isalnum() else "-" for letter in self.gpu)
        return f"{self.flavour}-{self.version}-{gpu}-{self.compute_capability}-{self.driver or self.driver_cuda}"


def this_os() -> str:
    """Operating system and processor, for example "linux-x86_64"."""
    return f"{platform.system()}-{platform.machine()}".lower()


def this_site(flavour: str, version: str, device: int = 0) -> Site:
    """The properties of this machine.

    Args:
        version: of the flavour's TensorRT that is installed. device: number of the GPU.

    Raises:
        ProviderError: no driver, or no such GPU.
    """
    try:
        driver = working_driver()
    except ProviderError as error:
        raise ProviderError(f"provider {flavour}: {error}; use --provider cpu") from error
    if device >= len(driver.gpus):
        raise ProviderError(f"provider {flavour}: no GPU {device}; the driver finds {len(driver.gpus)}, from 0")
    gpu = driver.gpus[device]
    return Site(flavour, version, gpu.name, gpu.compute_capability, this_os(), driver.version, driver.cuda)


@dataclass(frozen=True)
class Choice:
    """The path of the engine to load, or None if the graph is to be compiled here, and the reason."""

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
        return f"needs a driver for CUDA {record.cuda}; this driver supports CUDA {cuda_version(site.driver_cuda)}"
    for path, sha256 in record.sources.items():
        if path not in listed or listed[path].sha256 != sha256:
            return f"built from another {path} than the bundle's"
    return None


def choose_engine(
    files: Mapping[str, bytes],
    listed: Mapping[str, FileEntry],
    graph: str,
    largest: int,
    site: Site,
    signature: Signature,
) -> Choice:
    """Choose the engine of `graph` that serves batches 1 … `largest` with the narrowest range.

    Args:
        files, listed: the bundle's files and their entries in the manifest.
        signature: the bundle's, from `load_bundle`.

    Raises:
        BundleError: a damaged record.
    """
    reasons, usable = [], []
    for path, record in engine_records(files, listed).items():
        if record.graph != graph or record.flavour != site.flavour:
            continue
        low, high = record.batches
        reason = mismatch(record, site, listed)
        if reason is None and not low <= 1 <= largest <= high:
            reason = f"its batches are {low} … {high}; needed are 1 … {largest}"
        if reason is None and (path not in listed or listed[path] != FileEntry(record.sha256, record.bytes)):
            reason = "its record is of another engine"
        if reason is not None:
            reasons.append(f"{path}: {reason}")
        else:
            usable.append((high, path))
    if usable and signature.trusted:
        return Choice(min(usable)[1], "fits this machine")
    if usable:
        reasons = [f"{min(usable)[1]}: {what_loads(signature)}"]
    return Choice(None, reasons[0] if reasons else f"the bundle has no {site.flavour} engine of {graph}")
