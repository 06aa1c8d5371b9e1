"""Where graphs run: in this process (`HERE`), or in one of their own (`dpd_runtime.engines.apart`)."""

from collections.abc import Mapping
from typing import Protocol

from dpd_runtime.engines.engine import Engine, Provider
from dpd_runtime.engines.execution_providers import Compilation, available_providers, flavour_version
from dpd_runtime.engines.onnxruntime import OnnxRuntimeEngine
from dpd_runtime.engines.split_calls import TwoCalls


class Host(Protocol):
    """A process that has ONNX Runtime."""

    @property
    def ended(self) -> bool:
        """Whether it computes nothing more, and with it what was loaded there."""
        ...

    def available_providers(self) -> tuple[str, ...]:
        """As `dpd_runtime.engines.execution_providers.available_providers`."""
        ...

    def flavour_version(self, flavour: str) -> str:
        """As `dpd_runtime.engines.execution_providers.flavour_version`."""
        ...

    def load(
        self,
        graph: bytes,
        provider: Provider,
        threads: int | None,
        weights: Mapping[str, bytes] | None,
        name: str,
        compilation: Compilation,
        *,
        halves: bool = False,
        row: tuple[int, ...] | None = None,
    ) -> Engine:
        """Load a graph. Arguments and errors are those of `OnnxRuntimeEngine`.

        Args:
            halves: make each call as two, with so many threads each (`TwoCalls`).
            row: the shape of the output for one row of the inputs, if it is known. An engine of another process raises
                BundleError for any other output, and does not read it where it is larger.
        """
        ...


class _Here:
    ended = False

    def available_providers(self) -> tuple[str, ...]:
        return available_providers()

    def flavour_version(self, flavour: str) -> str:
        return flavour_version(flavour)

    def load(
        self,
        graph: bytes,
        provider: Provider,
        threads: int | None,
        weights: Mapping[str, bytes] | None,
        name: str,
        compilation: Compilation,
        *,
        halves: bool = False,
        row: tuple[int, ...] | None = None,
    ) -> Engine:
        engine = OnnxRuntimeEngine(graph, provider, threads, weights, name=name, compilation=compilation)
        return TwoCalls(engine) if halves else engine


HERE: Host = _Here()
