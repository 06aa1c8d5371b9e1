"""Engines: named arrays in, named arrays out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

from dpd_runtime.errors import ProviderError

Array = npt.NDArray[Any]


class Engine(Protocol):
    """A compiled graph."""

    def run(self, **inputs: Array) -> Array:
        """The first output of the graph for these named inputs."""
        ...


@dataclass(frozen=True)
class Provider:
    """An execution provider as chosen, and why."""

    name: str
    reason: str


PROVIDERS = ("auto", "cpu", "cuda", "tensorrt", "tensorrt-rtx")


def choose_provider(requested: str, attempt: Callable[[Provider], object]) -> Provider:
    """Resolve `--provider`.

    Args:
        attempt: opens a session; a wheel that lists a provider need not have its driver and libraries.

    Raises:
        ProviderError: an unknown provider, or one which this version or machine does not have.
    """
    from dpd_runtime.engines.onnxruntime import available_providers

    if requested not in PROVIDERS:
        raise ProviderError(f"provider {requested!r} is unknown: use one of {', '.join(PROVIDERS)}")
    if requested in ("tensorrt", "tensorrt-rtx"):
        raise ProviderError(f"provider {requested} is not in this version yet: use cuda or cpu")
    available = available_providers()
    if requested == "auto":
        if "cuda" not in available:
            return Provider("cpu", "this onnxruntime has no CUDAExecutionProvider")
        try:
            attempt(Provider("cuda", ""))
        except ProviderError as error:
            return Provider("cpu", str(error))
        return Provider("cuda", "onnxruntime loaded CUDAExecutionProvider")
    if requested not in available:
        raise ProviderError(
            f"provider {requested}: this onnxruntime offers {', '.join(available)}; "
            'pip uninstall onnxruntime, then pip install "dpd-distill[gpu]"'
        )
    return Provider(requested, "asked for")
