"""Build one TensorRT engine from one ONNX graph: flavours, profiles, the parsed network, the build."""

import hashlib
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np

from dpd_export.peak_memory import peak_bytes, reset_peak
from dpd_runtime.bundle import weights_of
from dpd_runtime.engine_files import EngineInput, EngineOutput
from dpd_runtime.errors import BundleError, CheckError, InputError, MissingExtraError, ProviderError
from dpd_runtime.files import read_cached, spare_cache, write_atomically
from dpd_runtime.machine import working_driver
from dpd_runtime.tensorrt import INPUTS, Profile

# -- The two TensorRT packages, and the GPUs that each can build for on this machine.


@dataclass(frozen=True)
class Flavour:
    """A TensorRT package.

    Args:
        name: of the pip package.
        module: what is imported.
        extra: the extra of dpd-distill that installs it.
        magic: first bytes of its engines; empty if unknown.
        ahead_of_time: whether it builds for GPUs that this machine does not have.
    """

    name: str
    module: str
    extra: str
    magic: bytes
    ahead_of_time: bool


FLAVOURS = {
    "tensorrt-rtx": Flavour("tensorrt-rtx", "tensorrt_rtx", "rtx-build", b"vtrt", True),
    "tensorrt": Flavour("tensorrt", "tensorrt", "trt", b"", False),
}


CARDS = {75: "RTX 20", 80: "A100", 86: "RTX 30", 89: "RTX 40", 120: "RTX 50", 121: "GB10"}
"""What people call the compute capabilities that tensorrt-rtx builds for."""


def named_cards(capabilities: tuple[int, ...]) -> str:
    """Compute capabilities as people know them: "RTX 30 (86), RTX 40 (89)"."""
    return ", ".join(f"{CARDS[one]} ({one})" if one in CARDS else str(one) for one in capabilities)


def known_capabilities(trt: Any) -> tuple[int, ...]:
    """What tensorrt-rtx builds for, in ascending order: as its module says, or, for None, as the tested version did."""
    if trt is None:
        return tuple(CARDS)
    return tuple(sorted(int(name[2:]) for name in trt.ComputeCapability.__members__ if name.startswith("SM")))


def flavour_of(name: str) -> Flavour:
    """Look up a flavour by name.

    Raises:
        InputError: an unknown name.
    """
    if name not in FLAVOURS:
        raise InputError(f"flavour {name!r} is unknown: use {' or '.join(FLAVOURS)}")
    return FLAVOURS[name]


def import_flavour(flavour: Flavour) -> Any:
    """Import the package.

    Raises:
        MissingExtraError: it is not installed; the message has the line that installs it.
        ProviderError: a version whose engines ONNX Runtime does not load.
    """
    try:
        module = import_module(flavour.module)
    except (ImportError, OSError) as error:  # OSError: the library that the bindings load is missing
        raise MissingExtraError(flavour.name, flavour.extra) from error
    if flavour.name == "tensorrt" and not str(module.__version__).startswith("10."):
        raise ProviderError(
            f"tensorrt {module.__version__} is installed, and ONNX Runtime loads engines of TensorRT 10 only: "
            'pip install "tensorrt-cu13>=10.13,<11"'
        )
    return module


def cuda_major(flavour: Flavour) -> int:
    """Major CUDA version that it was built with, from the package name (tensorrt_rtx_cu13 → 13); 0 if unknown."""
    start = f"{flavour.module}_cu"
    names = (str(distribution.metadata["Name"]).replace("-", "_") for distribution in distributions())
    return max(
        (int(name[len(start) :]) for name in names if name.startswith(start) and name[len(start) :].isdigit()),
        default=0,
    )


def parse_capabilities(text: str) -> tuple[int, ...]:
    """Read "75,8.9" as (75, 89), in ascending order.

    Raises:
        InputError: text of another form.
    """
    capabilities = set()
    for word in text.split(","):
        digits = word.strip().replace(".", "", 1)
        if not (digits.isascii() and digits.isdigit() and 2 <= len(digits) <= 3):
            raise InputError(f"compute capability {word.strip()!r} is not of the form 89 or 8.9")
        capabilities.add(int(digits))
    return tuple(sorted(capabilities))


def check_capabilities(flavour: Flavour, trt: Any, wanted: tuple[int, ...]) -> tuple[int, ...]:
    """The compute capabilities to build for: those wanted, or for `tensorrt` the local GPU's.

    Raises:
        InputError: the flavour cannot build for one of them, or none was given to `tensorrt-rtx`.
        ProviderError: `tensorrt` without a GPU.
    """
    if flavour.ahead_of_time:
        known = known_capabilities(trt)
        listed = ", ".join(map(str, known))
        if not wanted:
            raise InputError(
                f"{flavour.name} builds ahead of time: say for which GPUs, --compute-capability {listed}, which are "
                f"{named_cards(known)}"
            )
        for capability in wanted:
            if capability not in known:
                raise InputError(
                    f"{flavour.name} {trt.__version__} builds for compute capability {listed}, not for {capability}"
                )
        return wanted
    try:
        here = working_driver().gpus[0].compute_capability
    except ProviderError as error:
        raise ProviderError(f"{error}; --flavour tensorrt-rtx builds without one") from error
    if wanted and wanted != (here,):
        raise InputError(
            f"{flavour.name} builds on the GPU that will run the engine, and this one has compute capability {here}, "
            f"not {', '.join(map(str, wanted))}"
        )
    return (here,)


# -- The parts of a bundle that become engines, and the shapes of their inputs.


PARTS = tuple(INPUTS)
DEFAULT_PARTS = PARTS[:3]
"""What every `dpd generate` calls. The classifier is for `--soft-labels` only."""


def full_shape(
    name: str, declared: tuple[int, ...], batch: int, rows: Mapping[str, tuple[int, ...]]
) -> tuple[int, ...]:
    """`declared` with its open dimensions (−1) filled in: the batch first, then the sizes of `rows`.

    Raises:
        BundleError: the graph's input does not have the shape that the bundle's tables say.
    """
    if not declared:
        return ()
    wanted = (batch, *rows.get(name, declared[1:]))
    fits = len(wanted) == len(declared) and all(d in (-1, w) for d, w in zip(declared, wanted, strict=True))
    if not fits or min(wanted) < 1:
        raise BundleError(f"input {name} has shape {declared}, the bundle's tables say {wanted}; export it again")
    return wanted


def check_parts(names: tuple[str, ...] | None, files: Mapping[str, bytes]) -> tuple[str, ...]:
    """The parts without repetitions; for None those of DEFAULT_PARTS that the bundle holds.

    Raises:
        InputError: a part is unknown or not in the bundle.
    """
    there = [part for part in PARTS if f"{part}/model.onnx" in files]
    if names is None:
        return tuple(part for part in DEFAULT_PARTS if part in there)
    for name in names:
        if name not in there:
            raise InputError(
                f"part {name!r} cannot become an engine; parts of this bundle that can: {', '.join(there)}"
            )
    return tuple(dict.fromkeys(names))


# -- Parse ONNX bytes to a strongly typed TensorRT network: the builder cannot change the graph's types.


DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT64": "int64",
    "INT32": "int32",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}
ARITHMETIC = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")


def dtype_name(tensor: Any) -> str:
    """numpy's name of a tensor's type."""
    name = str(tensor.dtype.name)
    return DTYPES.get(name, name.lower())


class Network:
    """One parsed graph. Keeps parser, graph and weights alive, because the network points to them."""

    def __init__(self, trt: Any, logger: Any, files: Mapping[str, bytes], graph: str) -> None:
        """Parse `graph`.

        Args:
            trt: the flavour's module.
            files: content of a verified bundle; nothing is read from disk again.

        Raises:
            InputError: the parser refuses the graph.
            BundleError: weights outside the graph are not where the graph says.
        """
        self.builder = trt.Builder(logger)
        typed = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        self.definition = self.builder.create_network(1 << int(typed))
        self._parser = trt.OnnxParser(self.definition, logger)
        self._weights = outside_weights(files, graph)
        good = bool(self._parser.load_model_proto(files[graph]))
        for name, weight in self._weights.items():
            good = good and bool(self._parser.load_initializer(name, weight.ctypes.data, weight.nbytes))
        if not (good and self._parser.parse_model_proto()):
            reason = self._parser.get_error(0).desc() if self._parser.num_errors else "no reason given"
            raise InputError(f"{graph}: TensorRT's parser refuses it ({reason[:200]}); export the bundle again")
        if not self.definition.get_flag(typed):
            raise InputError(
                f"{graph}: {trt.__name__} {trt.__version__} does not say that its networks are strongly typed; install "
                "a version with which engines were tried (docs: Engines)"
            )

    @property
    def inputs(self) -> list[Any]:
        return [self.definition.get_input(i) for i in range(self.definition.num_inputs)]

    @property
    def outputs(self) -> list[Any]:
        return [self.definition.get_output(i) for i in range(self.definition.num_outputs)]

    def arithmetic(self) -> dict[str, int]:
        """Number of convolutions and matrix products in each type."""
        layers = [self.definition.get_layer(i) for i in range(self.definition.num_layers)]
        return dict(Counter(dtype_name(x.get_output(0)) for x in layers if x.type.name in ARITHMETIC))


def sources_of(files: Mapping[str, bytes], graph: str) -> tuple[str, ...]:
    """The graph, and the file beside it that holds its weights, if there is one."""
    return (graph, weights_of(graph)) if weights_of(graph) in files else (graph,)


def outside_weights(files: Mapping[str, bytes], graph: str) -> dict[str, np.ndarray[Any, np.dtype[np.uint8]]]:
    """Bytes of each weight that lies in the file beside the graph, as views without copies.

    Raises:
        BundleError: a weight does not lie within that file.
    """
    beside = weights_of(graph)
    if beside not in files:
        return {}
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError("onnx", "export") from error

    weights = {}
    content = np.frombuffer(files[beside], np.uint8)
    for tensor in onnx.load_from_string(files[graph]).graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        place = {pair.key: pair.value for pair in tensor.external_data}
        offset = int(place.get("offset", 0))
        end = offset + int(place["length"]) if "length" in place else len(content)
        if not 0 <= offset <= end <= len(content):
            raise BundleError(f"{graph}: weight {tensor.name} does not lie within {beside}; export the bundle again")
        weights[tensor.name] = content[offset:end]
    return weights


# -- Build one engine from one graph and one profile, and check it as far as possible without a GPU.
#
# Deserialising needs a CUDA driver. Therefore the strongly typed network is checked before the build (inputs, outputs,
# types, shapes), and the engine's first bytes and size after it.


TURING = 75


@dataclass(frozen=True)
class Plan:
    """A built engine.

    Args:
        content: what the builder returned, readable as a buffer.
        peak_memory: bytes.
    """

    content: Any
    sha256: str
    inputs: tuple[EngineInput, ...]
    outputs: tuple[EngineOutput, ...]
    arithmetic: Mapping[str, int]
    tf32: bool
    layers: int
    seconds: float
    peak_memory: int

    @property
    def bytes(self) -> int:
        return memoryview(self.content).nbytes


def build_engine(
    trt: Any,
    flavour: Flavour,
    files: Mapping[str, bytes],
    graph: str,
    profile: Profile,
    rows: Mapping[str, tuple[int, ...]],
    capabilities: tuple[int, ...],
    *,
    tf32: bool,
) -> Plan:
    """Build an engine.

    Args:
        trt: the flavour's module.
        files: content of a verified bundle.
        rows: shape of one row of each input.
        capabilities: compute capabilities that this one engine runs on; several only if it is built ahead of time.
        tf32: whether float32 products may be rounded to TF32.

    Raises:
        InputError: the parser or the builder refuses the graph.
        CheckError: the engine is not what was asked for.
    """
    reset_peak()
    started = time.monotonic()
    logger = _logger(trt)
    network = Network(trt, logger, files, graph)
    inputs = tuple(_input(tensor, profile, rows) for tensor in network.inputs)
    config = network.builder.create_builder_config()
    _set_types(trt, config, tf32)
    _set_shapes(network, config, inputs)
    if flavour.ahead_of_time:
        config.num_compute_capabilities = len(capabilities)
        for place, capability in enumerate(capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{capability}"), place)
    else:
        _load_timings(config, flavour.name, trt.__version__, capabilities[0])
    outputs = tuple(EngineOutput(t.name, dtype_name(t), tuple(t.shape)) for t in network.outputs)
    _check_shapes(graph, inputs, outputs)
    content = network.builder.build_serialized_network(network.definition, config)
    if content is None:
        raise InputError(_refusal(flavour, graph, capabilities, logger.errors))
    if not flavour.ahead_of_time:
        _keep_timings(config, flavour.name, trt.__version__, capabilities[0])
    plan = Plan(
        content=content,
        sha256=hashlib.sha256(content).hexdigest(),
        inputs=inputs,
        outputs=outputs,
        arithmetic=network.arithmetic(),
        tf32=tf32,
        layers=network.definition.num_layers,
        seconds=time.monotonic() - started,
        peak_memory=peak_bytes(),
    )
    if not bytes(memoryview(content)[:64]).startswith(flavour.magic) or plan.bytes < 64:
        raise CheckError(f"{graph}: what {flavour.name} returned is not an engine that this code knows")
    return plan


def _logger(trt: Any) -> Any:
    """A logger that keeps errors for our own message instead of printing every line."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

    return Log()


def _input(tensor: Any, profile: Profile, rows: Mapping[str, tuple[int, ...]]) -> EngineInput:
    declared = tuple(tensor.shape)
    shapes = [full_shape(tensor.name, declared, batch, rows) for batch in (profile.low, profile.usual, profile.high)]
    return EngineInput(tensor.name, dtype_name(tensor), *shapes)


def _set_types(trt: Any, config: Any, tf32: bool) -> None:
    """Set TF32. It is on by default and would round float32 products to 10 bits of mantissa."""
    (config.set_flag if tf32 else config.clear_flag)(trt.BuilderFlag.TF32)


def _set_shapes(network: Network, config: Any, inputs: tuple[EngineInput, ...]) -> None:
    shapes = network.builder.create_optimization_profile()
    for entry in inputs:
        if entry.opt:
            shapes.set_shape(entry.name, entry.min, entry.opt, entry.max)
    if config.add_optimization_profile(shapes) < 0:
        raise CheckError("TensorRT refuses the profile; please report it with the output of --debug")


def _check_shapes(graph: str, inputs: tuple[EngineInput, ...], outputs: tuple[EngineOutput, ...]) -> None:
    """Check that every output has an open batch axis."""
    for entry in outputs:
        if not entry.shape or entry.shape[0] != -1:
            raise CheckError(f"{graph}: output {entry.name} has shape {entry.shape} for inputs {inputs[0].opt}")


def _refusal(flavour: Flavour, graph: str, capabilities: tuple[int, ...], errors: list[str]) -> str:
    reason = " ".join(errors[-1].split())[:240] if errors else "no reason given"
    hint = "" if TURING not in capabilities else " (75 has no float32 matrix products: export with --precision fp16)"
    named = ", ".join(map(str, capabilities))
    return f"{graph}: {flavour.name} cannot build it for compute capability {named}{hint}: {reason}"


def _timing_file(name: str, version: str, capability: int) -> Path | None:
    folder = spare_cache("tensorrt-timings")
    return None if folder is None else folder / f"{name}-{version}-{capability}.cache"


def _load_timings(config: Any, name: str, version: str, capability: int) -> None:
    """Give the builder the kernel timings of earlier builds; it measures again if they do not fit.

    Only for `tensorrt`: with `tensorrt-rtx` they change nothing and make the builder ask for a GPU (its release notes).
    Never executed on this project's machines, where `tensorrt` cannot be installed.
    """
    path = _timing_file(name, version, capability)
    cache = config.create_timing_cache((path and read_cached(path)) or b"")
    config.set_timing_cache(cache, ignore_mismatch=False)


def _keep_timings(config: Any, name: str, version: str, capability: int) -> None:
    """Store the builder's timings in a folder that only this user can read, since native code reads them."""
    cache, path = config.get_timing_cache(), _timing_file(name, version, capability)
    if cache is None or path is None:
        return
    with suppress(OSError):  # a later build measures again
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(path, bytes(cache.serialize()))
