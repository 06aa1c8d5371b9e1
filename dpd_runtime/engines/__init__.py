"""Engines: named arrays in, named arrays out."""

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


def choose_provider(requested: str) -> Provider:
    """Resolve `--provider`.

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
        if "cuda" in available:
            return Provider("cuda", "onnxruntime lists CUDAExecutionProvider")
        return Provider("cpu", "this onnxruntime has no CUDAExecutionProvider")
    if requested not in available:
        raise ProviderError(
            f"provider {requested}: this onnxruntime offers {', '.join(available)}; "
            'pip install "onnxruntime-gpu[cuda,cudnn]"'
        )
    return Provider(requested, "asked for")
