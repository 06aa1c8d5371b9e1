"""One graph, one profile, one or more GPU types → one engine, inspected as far as that goes without a GPU.

Deserialising needs a CUDA driver, so what is checked is the strongly typed network before the build (inputs, outputs,
types, shapes) and the plan's first bytes and size after it.
"""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dpd_export.engines.flavours import Flavour
from dpd_export.engines.network import Network, dtype_name
from dpd_export.engines.profiles import Profile, full_shape
from dpd_export.engines.timing_cache import keep_timings, known_timings
from dpd_export.graphs.peak_memory import peak_bytes, reset_peak
from dpd_runtime.engines.record import EngineInput, EngineOutput
from dpd_runtime.errors import CheckError, InputError

TURING = 75


@dataclass(frozen=True)
class Plan:
    """A built engine. content: whatever the builder returned, readable as a buffer. peak_memory: bytes."""

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
    """Args:
    trt: the flavour's module. files: a verified bundle's content.
    rows: shape of one row of each input.
    capabilities: what one engine shall run on; more than one only where the flavour builds ahead of time.
    tf32: whether float32 products may be rounded to TF32.

    Raises:
        InputError: parser or builder refuse the graph. CheckError: what was built is not what was asked for.
    """
    reset_peak()
    started = time.monotonic()
    logger = _logger(trt)
    network = Network(trt, logger, files, graph)
    inputs = tuple(_input(tensor, profile, rows) for tensor in network.inputs)
    config = network.builder.create_builder_config()
    _set_types(trt, config, tf32)
    _set_shapes(network, config, inputs, profile)
    if flavour.ahead_of_time:
        config.num_compute_capabilities = len(capabilities)
        for place, capability in enumerate(capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{capability}"), place)
    else:
        known_timings(config, flavour.name, trt.__version__, capabilities[0])
    outputs = tuple(EngineOutput(t.name, dtype_name(t), tuple(t.shape)) for t in network.outputs)
    _check_shapes(graph, inputs, outputs, profile)
    content = network.builder.build_serialized_network(network.definition, config)
    if content is None:
        raise InputError(_refusal(flavour, graph, capabilities, logger.errors))
    if not flavour.ahead_of_time:
        keep_timings(config, flavour.name, trt.__version__, capabilities[0])
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
        raise CheckError(f"{graph}: what {flavour.name} returned is no engine of the kind this code knows")
    return plan


def _logger(trt: Any) -> Any:
    """Keeps errors for our own message; TensorRT's default prints every line."""

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
    """TF32 is on by default, and would round float32 products to 10 bits of mantissa."""
    (config.set_flag if tf32 else config.clear_flag)(trt.BuilderFlag.TF32)


def _set_shapes(network: Network, config: Any, inputs: tuple[EngineInput, ...], profile: Profile) -> None:
    """A static engine gets a network without open dimensions; it needs no profile then."""
    if profile.static:
        for tensor, entry in zip(network.inputs, inputs, strict=True):
            if entry.opt:
                tensor.shape = entry.opt
        return
    shapes = network.builder.create_optimization_profile()
    for entry in inputs:
        if entry.opt:
            shapes.set_shape(entry.name, entry.min, entry.opt, entry.max)
    if config.add_optimization_profile(shapes) < 0:
        raise CheckError("TensorRT refuses the profile; please report it with the output of --debug")


def _check_shapes(
    graph: str, inputs: tuple[EngineInput, ...], outputs: tuple[EngineOutput, ...], profile: Profile
) -> None:
    """The batch has to reach every output: fixed in a static engine, open in a dynamic one."""
    wanted = profile.usual if profile.static else -1
    for entry in outputs:
        rest = entry.shape[1:]
        if not entry.shape or entry.shape[0] != wanted or (profile.static and min(rest, default=1) < 1):
            raise CheckError(f"{graph}: output {entry.name} has shape {entry.shape} for inputs {inputs[0].opt}")


def _refusal(flavour: Flavour, graph: str, capabilities: tuple[int, ...], errors: list[str]) -> str:
    said = " ".join(errors[-1].split())[:240] if errors else "no reason given"
    hint = "" if TURING not in capabilities else " (75 has no float32 matrix products: export with --precision fp16)"
    named = ", ".join(map(str, capabilities))
    return f"{graph}: {flavour.name} cannot build it for compute capability {named}{hint}: {said}"
