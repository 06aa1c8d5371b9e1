"""Build one engine from one graph and one profile, and check it as far as possible without a GPU.

Deserialising needs a CUDA driver. Therefore the strongly typed network is checked before the build (inputs, outputs,
types, shapes), and the engine's first bytes and size after it.
"""

import hashlib
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpd_export.engines.flavours import Flavour
from dpd_export.engines.network import Network, dtype_name
from dpd_export.engines.profiles import full_shape
from dpd_export.graphs.peak_memory import peak_bytes, reset_peak
from dpd_runtime.bundle.profiles import Profile
from dpd_runtime.engines.record import EngineInput, EngineOutput
from dpd_runtime.errors import CheckError, InputError
from dpd_runtime.files import read_cached, spare_cache, write_atomically

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
