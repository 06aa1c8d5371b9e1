"""What `dpd export --trt` builds, for which cards, and all that is in its way, before anything is computed."""

from dataclasses import dataclass
from typing import Any

from dpd_export.engines.flavours import (
    CARDS,
    Flavour,
    check_capabilities,
    flavour_of,
    import_flavour,
    known_capabilities,
    named_cards,
)
from dpd_export.engines.new_bundle import check_precision
from dpd_runtime.errors import DpdError, MissingExtraError, ProviderError
from dpd_runtime.machine.driver import nvidia_driver

TURING, FIRST_OF_PLUGIN = 75, 80
"""Turing has no float32 matrix products in TensorRT for RTX, and the plugin that loads engines begins above it."""
ELSEWHERE = {
    72: "Jetson Xavier: dpd runs on its CPU",
    87: "Jetson Orin: dpd runs on its CPU",
    90: "H100: --flavour tensorrt builds for it, on that GPU",
    100: "B200: --flavour tensorrt builds for it, on that GPU",
    101: "Jetson Thor: dpd runs on its CPU",
    110: "Jetson Thor: dpd runs on its CPU",
}
"""Compute capabilities that tensorrt-rtx does not build for, and what does."""


@dataclass(frozen=True)
class WantedEngines:
    """Engines to build.

    Args:
        portable: one engine for all compute capabilities instead of one for each.
        faults: why none can be built here, each with what mends it; empty if they can.
    """

    flavour: Flavour
    capabilities: tuple[int, ...]
    portable: bool
    faults: tuple[str, ...]

    def describe(self) -> str:
        """What is built for which cards."""
        where = named_cards(self.capabilities) if self.capabilities else "the GPU of this machine"
        return f"{self.flavour.name} for {where}" + (", in one engine for all" if self.portable else "")

    @property
    def options(self) -> list[str]:
        """Options of `dpd engines` that ask for the same."""
        if not self.flavour.ahead_of_time:
            return ["--flavour", self.flavour.name]
        listed = ",".join(map(str, self.capabilities))
        return ["--compute-capability", listed, *(["--portable"] if self.portable else [])]


def wanted_engines(flavour: str, named: tuple[int, ...], precision: str) -> WantedEngines:
    """Find out what to build: for the cards that are named, else for the GPU that is here, else for all in one engine.

    Args:
        named: compute capabilities, 10 · major + minor.

    Raises:
        InputError: an unknown flavour, or an int8 bundle, of which there are no engines.
    """
    kind, faults, trt = flavour_of(flavour), list[str](), None
    check_precision(precision)
    try:
        trt = import_flavour(kind)
    except (MissingExtraError, ProviderError) as error:
        faults.append(str(error))
    if kind.ahead_of_time:
        return _ahead_of_time(kind, trt, named, precision, faults)
    try:
        capabilities = check_capabilities(kind, trt, named)
    except DpdError as error:
        capabilities = ()
        faults.append(str(error))
    return WantedEngines(kind, capabilities, False, tuple(faults))


def _ahead_of_time(kind: Flavour, trt: Any, named: tuple[int, ...], precision: str, faults: list[str]) -> WantedEngines:
    known = known_capabilities(trt)
    strangers = [one for one in named if one not in known]
    listed = named_cards(known)
    for one in strangers:
        faults.append(f"{one} is " + ELSEWHERE.get(one, f"no card that {kind.name} builds for, which are {listed}"))
    half = precision == "fp16"
    if TURING in named and not half:
        faults.append(f"{named_cards((TURING,))} has no float32 matrix products: leave it out, or --precision fp16")
    if rest := tuple(one for one in named if one in known and (half or one != TURING)):
        return WantedEngines(kind, rest, False, tuple(faults))
    all_usual = tuple(one for one in known if one >= FIRST_OF_PLUGIN and one in CARDS)
    here = [gpu.compute_capability for gpu in nvidia_driver().gpus[:1]]
    if here and here[0] in all_usual and not named:
        return WantedEngines(kind, (here[0],), False, tuple(faults))
    return WantedEngines(kind, all_usual, True, tuple(faults))
