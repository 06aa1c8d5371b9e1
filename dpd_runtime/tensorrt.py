"""TensorRT engines of a bundle: which of them fit this machine, and the model that holds one."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from dpd_runtime.engine_files import EngineRecord, Shape, engine_records
from dpd_runtime.engines import ShapeRange
from dpd_runtime.errors import ProviderError
from dpd_runtime.machine import cuda_version, working_driver
from dpd_runtime.manifest import FileEntry, Manifest
from dpd_runtime.trust import Signature

# -- Whether an engine of a bundle can be used on this machine, decided before it is loaded.
#
# An engine is native code. The decision uses only the record beside it, its hash and the bundle's signature.


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


# -- The shapes in which a bundle's graphs are called, for providers that compile for a range of shapes.


INPUTS = {
    "unet": ("sample", "encoder_hidden_states"),
    "vae_decoder": ("latent_sample",),
    "latent_classifier": ("latents",),
    "classifier": ("images",),
}
"""The inputs with a batch axis of each part that a provider may compile."""
SYMMETRIES = 8
"""Rows of the classifier's call for soft labels: the symmetries of one image."""
HEADROOM = 2
"""Largest batch of a profile, as a multiple of the largest that `dpd generate` uses."""


@dataclass(frozen=True)
class Profile:
    """Smallest, usual and largest batch."""

    low: int
    usual: int
    high: int


def largest_batch(part: str, manifest: Manifest) -> int:
    """The largest batch in which `dpd generate` calls this part.

    A step with classifier-free guidance passes both halves in one call, with twice `compute_batch` rows. Candidates
    change the number of calls, not the batch.
    """
    sampler = manifest.sampler
    if part == "classifier":
        return SYMMETRIES
    guided = any(g.guides(step, sampler.steps) for g in sampler.guidance for step in range(sampler.steps))
    return sampler.compute_batch * (2 if part == "unet" and guided else 1)


def profile_of(part: str, manifest: Manifest) -> Profile:
    """One profile for all calls of a part: from batch 1, as when memory is short, to twice the largest."""
    usual = largest_batch(part, manifest)
    return Profile(1, usual, HEADROOM * usual)


def row_shapes(manifest: Manifest, embedding: Shape) -> dict[str, Shape]:
    """The shape of one row of each input, by the exporter's names.

    Args:
        embedding: (L, D), of one prompt.
    """
    latents, (height, width, channels) = manifest.latent_shape, manifest.image_shape
    return {
        "sample": latents,
        "latent_sample": latents,
        "latents": latents,
        "encoder_hidden_states": embedding,
        "images": (channels, height, width),
    }


def output_row(graph: str, manifest: Manifest, classes: int) -> Shape | None:
    """The shape of one row of a graph's output; None for a graph that `dpd generate` does not call."""
    height, width, channels = manifest.image_shape
    rows: dict[str, Shape] = {
        "unet": manifest.latent_shape,
        "vae_decoder": (channels, height, width),
        "latent_classifier": (classes,),
        "classifier": (classes,),
    }
    return rows.get(PurePosixPath(graph).parts[0])


def shape_ranges(graph: str, manifest: Manifest, embedding: Shape) -> Mapping[str, ShapeRange]:
    """The shapes of a graph's inputs; none for a graph that no provider compiles, such as the text encoder."""
    part = PurePosixPath(graph).parts[0]
    rows, profile = row_shapes(manifest, embedding), profile_of(part, manifest)
    return {
        name: ((profile.low, *rows[name]), (profile.usual, *rows[name]), (profile.high, *rows[name]))
        for name in INPUTS.get(part, ())
    }


# -- An ONNX model around an engine that was built before, which ONNX Runtime's TensorRT providers load (EPContext).
#
# Both providers deserialise the bytes of the attribute `ep_cache_context` and match the engine's tensors by name
# (onnxruntime, providers/nv_tensorrt_rtx/onnx_ctx_model_helper.cc and providers/tensorrt/onnx_ctx_model_helper.cc). The
# model is encoded here, because the runtime works without the package `onnx`. No GPU has run one in this project.


ELEMENT_TYPES = {"float32": 1, "int32": 6, "int64": 7, "bool": 9, "float16": 10}
"""numpy's names → onnx.TensorProto.DataType."""
INTEGER, TEXT = 2, 3
"""onnx.AttributeProto.AttributeType."""
IR_VERSION, OPSET = 10, 18
LARGEST = 2**31 - 2**20
"""Bytes of an engine: protobuf has messages of less than 2 GiB."""


def context_model(record: EngineRecord, engine: bytes, provider: str) -> bytes:
    """Encode the model.

    Args:
        record: the engine's inputs and outputs. Axes of different sizes in its shapes are open in the model.
        provider: ONNX Runtime's name of the provider that loads it.

    Raises:
        ProviderError: the engine is too large for an ONNX model, or has a tensor of an unknown type.
    """
    if len(engine) > LARGEST:
        raise ProviderError(f"the engine of {record.graph} has {len(engine)} bytes, too many for an ONNX model")
    ranges = [(entry.name, entry.dtype, entry.min, entry.max) for entry in record.inputs]
    inputs = [_value(name, dtype, _axes(low, high)) for name, dtype, low, high in ranges]
    outputs = [_value(entry.name, entry.dtype, entry.shape) for entry in record.outputs]
    attributes = [
        _attribute("main_context", 1),
        _attribute("embed_mode", 1),
        _attribute("ep_cache_context", engine),
        _attribute("hardware_architecture", str(record.compute_capabilities[0]).encode()),
        _attribute("ep_sdk_version", record.builder_version.encode()),
        _attribute("onnx_model_filename", b""),
        _attribute("partition_name", b"engine"),
        _attribute("source", provider.encode()),
    ]
    node = b"".join(_bytes(1, entry.name.encode()) for entry in record.inputs)
    node += b"".join(_bytes(2, entry.name.encode()) for entry in record.outputs)
    node += _bytes(3, b"engine") + _bytes(4, b"EPContext") + b"".join(_bytes(5, attribute) for attribute in attributes)
    node += _bytes(7, b"com.microsoft")
    graph = _bytes(1, node) + _bytes(2, b"engine")
    graph += b"".join(_bytes(11, value) for value in inputs) + b"".join(_bytes(12, value) for value in outputs)
    opsets = [_bytes(1, domain) + _number(2, version) for domain, version in ((b"", OPSET), (b"com.microsoft", 1))]
    return _number(1, IR_VERSION) + _bytes(7, graph) + b"".join(_bytes(8, opset) for opset in opsets)


def _axes(low: Shape, high: Shape) -> Shape:
    """The axes of an input, −1 where its size may vary."""
    return tuple(a if a == b else -1 for a, b in zip(low, high, strict=True))


def _value(name: str, dtype: str, shape: Shape) -> bytes:
    """A ValueInfoProto. All open first axes are the same one, the batch."""
    if dtype not in ELEMENT_TYPES:
        raise ProviderError(f"the engine's tensor {name} has type {dtype}, which is not known here; build it again")
    axes = [
        _bytes(2, b"batch" if place == 0 else f"{name}_{place}".encode()) if size < 0 else _number(1, size)
        for place, size in enumerate(shape)
    ]
    tensor = _number(1, ELEMENT_TYPES[dtype]) + _bytes(2, b"".join(_bytes(1, axis) for axis in axes))
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, tensor))


def _attribute(name: str, value: int | bytes) -> bytes:
    content = _number(3, value) if isinstance(value, int) else _bytes(4, value)
    return _bytes(1, name.encode()) + content + _number(20, INTEGER if isinstance(value, int) else TEXT)


def _bytes(field: int, content: bytes) -> bytes:
    """A protobuf field of bytes, text or a message."""
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])
