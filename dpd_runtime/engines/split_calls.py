"""Splitting calls by rows: into smaller ones if memory is short, or into two simultaneous halves, which are faster.

Rows are the first axis of all inputs (but scalars) and of the output. On a CPU the result of a row has the same bits
in every call of at least LEAST rows. Other providers choose kernels by the size of a call, so last bits may differ.
"""

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dpd_runtime.annotations import Array
from dpd_runtime.engines.engine import Engine
from dpd_runtime.errors import MemoryShortError
from dpd_runtime.text import counted

LEAST = 2
"""Rows of the smallest call. For a single row ONNX Runtime uses other kernels, whose last bits differ."""
_log = logging.getLogger(__name__)


class FewerRows:
    """An engine that halves the rows of its calls until they fit into memory, and then keeps that size.

    All calls have the same size: the last one is filled up with its first row.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        """Args:
        name: the graph's name for the log, which has one line for each halving.
        """
        self._engine, self._name = engine, name
        self.most: int | None = None
        """Rows of a call; None as long as all fitted."""

    def run(self, **inputs: Array) -> Array:
        """Raises:
        MemoryShortError: not even LEAST rows fit.
        """
        rows = count_rows(inputs)
        while True:
            calls = rows if self.most is None else min(rows, self.most)
            try:
                return self._engine.run(**inputs) if calls == rows else self._in_parts(inputs, rows, calls)
            except MemoryShortError as error:
                if calls <= LEAST:
                    raise MemoryShortError(
                        f"{error}, even with {counted(calls, 'row')} in a call; free memory or use a machine with more"
                    ) from error
                self.most = max(LEAST, calls // 2)
                _log.warning("%s; continuing with %d rows in a call instead of %d", error, self.most, calls)

    def _in_parts(self, inputs: Mapping[str, Array], rows: int, most: int) -> Array:
        whole: Array | None = None
        for start in range(0, rows, most):
            part = np.arange(start, start + most)
            part[part >= rows] = start
            output = self._engine.run(**_take(inputs, part))
            if output.shape[:1] != (most,) or (whole is not None and output.shape[1:] != whole.shape[1:]):
                return output  # which `run_to` refuses
            if whole is None:  # filled part by part: memory is short, and a list of the parts would be there twice
                whole = np.empty((rows, *output.shape[1:]), output.dtype)
            whole[start : start + most] = output[: rows - start]
        assert whole is not None
        return whole


class TwoCalls:
    """An engine that makes each call as two simultaneous halves, each in its own thread.

    Two threads within one call wait for each other after every node of the graph; two calls do not.
    """

    def __init__(self, engine: Engine) -> None:
        """Args:
        engine: one that two threads can call at the same time.
        """
        self._engine = engine
        self._other = ThreadPoolExecutor(1, "half-call")

    def run(self, **inputs: Array) -> Array:
        """Run both halves. An error of either is raised after both have ended, an interrupt at once."""
        rows = count_rows(inputs)
        if rows < 2 * LEAST:
            return self._engine.run(**inputs)
        first, second = np.split(np.arange(rows), [(rows + 1) // 2])
        with_it = self._other.submit(self._engine.run, **_take(inputs, second))
        try:
            output = self._engine.run(**_take(inputs, first))
        except Exception:
            with_it.exception()
            raise
        other = with_it.result()
        if not output.ndim or output.shape[1:] != other.shape[1:]:
            return output  # which `run_to` refuses
        return np.concatenate([output, other])


def count_rows(inputs: Mapping[str, Array]) -> int:
    """The rows of a call."""
    return max((len(value) for value in inputs.values() if value.ndim), default=0)


def _take(inputs: Mapping[str, Array], rows: Array) -> dict[str, Array]:
    return {name: value[rows] if value.ndim else value for name, value in inputs.items()}
