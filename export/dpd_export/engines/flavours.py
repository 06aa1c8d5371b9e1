"""The two TensorRT packages, and the GPUs that each can build for on this machine."""

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import distributions
from typing import Any

from dpd_runtime.errors import InputError, MissingExtraError, ProviderError
from dpd_runtime.machine.driver import working_driver


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
