"""Calls of fewer rows where memory does not hold all of them at once."""

import logging

import numpy as np

from dpd_runtime.engines import Array, Engine
from dpd_runtime.errors import MemoryShortError

LEAST = 2
"""Rows of the smallest call. ONNX Runtime multiplies a single row by other kernels, whose last bits differ."""
_log = logging.getLogger(__name__)


class FewerRows:
    """An engine that halves the rows of its calls once they do not fit into memory, and keeps to what did.

    All calls stay of one size, the last one filled up with its first row. On a CPU a row's result has the same bits in
    all of them; other providers choose kernels by the size of a call, so that last bits may differ there.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        """Args:
        name: of the graph, for the line that is logged once for each halving.
        """
        self._engine, self._name = engine, name
        self._most: int | None = None

    def run(self, **inputs: Array) -> Array:
        """Inputs with axes have the rows in the first one, and so has the output.

        Raises:
            MemoryShortError: not even LEAST rows fit.
        """
        rows = max((len(value) for value in inputs.values() if value.ndim), default=0)
        while True:
            calls = rows if self._most is None else min(rows, self._most)
            try:
                return self._engine.run(**inputs) if calls == rows else self._in_parts(inputs, rows, calls)
            except MemoryShortError as error:
                if calls <= LEAST:
                    raise MemoryShortError(f"{error}, even for {calls} rows in a call: give it more memory") from error
                self._most = max(LEAST, calls // 2)
                _log.warning("%s; going on with %d rows in a call in place of %d", error, self._most, calls)

    def _in_parts(self, inputs: dict[str, Array], rows: int, most: int) -> Array:
        found = []
        for start in range(0, rows, most):
            part = np.arange(start, start + most)
            part[part >= rows] = start
            given = {name: value[part] if value.ndim else value for name, value in inputs.items()}
            found.append(self._engine.run(**given))
        return np.concatenate(found)[:rows]
