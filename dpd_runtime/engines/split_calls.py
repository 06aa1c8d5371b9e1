"""Calls by their rows: fewer where memory does not hold all of them, and two halves at once where that is faster.

All inputs with axes have the rows in the first one, and so has the output. On a CPU a row's result has the same bits
in every call of at least LEAST rows; other providers choose kernels by the size of a call: there last bits may differ.
"""

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dpd_runtime.annotations import Array
from dpd_runtime.engines.engine import Engine
from dpd_runtime.errors import MemoryShortError

LEAST = 2
"""Rows of the smallest call. ONNX Runtime multiplies a single row by other kernels, whose last bits differ."""
_log = logging.getLogger(__name__)


class FewerRows:
    """An engine that halves the rows of its calls once they do not fit into memory, and keeps to what did.

    All calls stay of one size, the last one filled up with its first row.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        """Args:
        name: of the graph, for the line that is logged once for each halving.
        """
        self._engine, self._name = engine, name
        self._most: int | None = None

    def run(self, **inputs: Array) -> Array:
        """Raises:
        MemoryShortError: not even LEAST rows fit.
        """
        rows = _count(inputs)
        while True:
            calls = rows if self._most is None else min(rows, self._most)
            try:
                return self._engine.run(**inputs) if calls == rows else self._in_parts(inputs, rows, calls)
            except MemoryShortError as error:
                if calls <= LEAST:
                    raise MemoryShortError(f"{error}, even for {calls} rows in a call: give it more memory") from error
                self._most = max(LEAST, calls // 2)
                _log.warning("%s; going on with %d rows in a call in place of %d", error, self._most, calls)

    def _in_parts(self, inputs: Mapping[str, Array], rows: int, most: int) -> Array:
        found = []
        for start in range(0, rows, most):
            part = np.arange(start, start + most)
            part[part >= rows] = start
            found.append(self._engine.run(**_take(inputs, part)))
        return np.concatenate(found)[:rows]


class TwoCalls:
    """An engine whose calls are made as two halves at the same time, each in a thread of its own.

    Two threads inside one call wait for each other after every node of the graph; two calls never do.
    """

    def __init__(self, engine: Engine) -> None:
        """Args:
        engine: may be called by two threads at once.
        """
        self._engine = engine
        self._other = ThreadPoolExecutor(1, "half-call")

    def run(self, **inputs: Array) -> Array:
        """Raises: what a half raises, once both have ended."""
        rows = _count(inputs)
        if rows < 2 * LEAST:
            return self._engine.run(**inputs)
        first, second = np.split(np.arange(rows), [(rows + 1) // 2])
        with_it = self._other.submit(self._engine.run, **_take(inputs, second))
        try:
            found = self._engine.run(**_take(inputs, first))
        finally:
            with_it.exception()
        return np.concatenate([found, with_it.result()])


def _count(inputs: Mapping[str, Array]) -> int:
    return max((len(value) for value in inputs.values() if value.ndim), default=0)


def _take(inputs: Mapping[str, Array], rows: Array) -> dict[str, Array]:
    return {name: value[rows] if value.ndim else value for name, value in inputs.items()}
