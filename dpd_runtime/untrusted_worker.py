"""The process that computes graphs which no trusted key has signed. `dpd_runtime.untrusted` starts it and speaks
with it over its standard input and output. It gets graphs and arrays; it never sees the bundle, its keys, or a path,
and its working folder is empty.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from dpd_runtime.annotations import Array
from dpd_runtime.engines import Compilation, Engine, Provider
from dpd_runtime.errors import DpdError, MemoryShortError
from dpd_runtime.machine import memory_for_graphs
from dpd_runtime.sessions import HERE
from dpd_runtime.untrusted import receive, send

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]


CALLS = 4
"""Calls at the same time, from as many threads of the other process."""
STACKS = 2**28  # bytes: the threads' stacks count, although they are hardly used


def limit_memory() -> None:
    """Let the system refuse this process more memory than graphs may take, and a core dump.

    The limit is also for what is not in ONNX Runtime's arena: strings, folded constants.
    """
    memory = memory_for_graphs()
    if resource is None or memory is None:
        return
    most = resource.getrlimit(resource.RLIMIT_DATA)[1]
    wanted = memory + STACKS
    limit = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class Server:
    """Loaded graphs by number."""

    def __init__(self) -> None:
        self._engines: dict[int, Engine] = {}

    def answer(self, asked: Mapping[str, Any], arrays: dict[str, Array]) -> tuple[dict[str, Any], dict[str, Array]]:
        """Do what a message asks for.

        Raises:
            DpdError: as the function that it asks for.
        """
        what = asked["what"]
        if what == "run":
            return {}, {"output": np.asarray(self._engines[asked["engine"]].run(**arrays))}
        if what == "load":
            self._engines[asked["engine"]] = self._load(asked, arrays)
            return {}, {}
        if what == "providers":
            return {"found": HERE.available_providers()}, {}
        return {"found": HERE.flavour_version(asked["flavour"])}, {}

    def drop(self, numbers: Iterable[int] | None = None) -> None:
        """Forget these graphs, or all."""
        for number in list(self._engines) if numbers is None else numbers:
            self._engines.pop(number, None)

    def _load(self, asked: Mapping[str, Any], arrays: dict[str, Array]) -> Engine:
        """Load a graph, and empty `arrays`, whose content would be in memory twice."""
        shapes = {name: (tuple(low), tuple(usual), tuple(high)) for name, (low, usual, high) in asked["shapes"].items()}
        cache = None if asked["cache"] is None else Path(asked["cache"])
        contents = {name: arrays.pop(name).tobytes() for name in list(arrays)}
        graph = contents.pop("graph")
        return HERE.load(
            graph,
            Provider(**asked["provider"]),
            asked["threads"],
            contents or None,
            asked["name"],
            Compilation(shapes, cache),
            halves=asked["halves"],
        )


def main() -> None:
    """Answer messages until the other process ends or closes its end."""
    for name in ("SIGINT", "SIGHUP"):  # Ctrl-C and its end reach all processes of a terminal; the other one decides
        if number := getattr(signal, name, None):  # Windows has no SIGHUP
            signal.signal(number, signal.SIG_IGN)
    limit_memory()
    asking = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not stand between messages
    server, one_at_a_time = Server(), threading.Lock()

    def answer(asked: dict[str, Any], arrays: dict[str, Array]) -> None:
        try:
            said, made = server.answer(asked, arrays)
        except DpdError as error:
            said, made = {"error": type(error).__name__, "text": str(error)}, {}
        except MemoryError as error:
            said, made = {"error": MemoryShortError.__name__, "text": f"no memory is left ({error})"}, {}
        except Exception as error:
            said, made = {"error": "", "text": f"{type(error).__name__}: {error}"[:300]}, {}
        with one_at_a_time:
            send(answers, {"call": asked["call"], **said}, made)

    pool = ThreadPoolExecutor(CALLS, "dpd-worker")
    while True:
        try:
            asked, arrays = receive(asking, sys.maxsize)
        except EOFError:
            break
        server.drop(asked.pop("dropped"))
        pool.submit(answer, asked, arrays)
        del arrays  # a graph may have gigabytes, and the next message may take long to come
    server.drop()  # what a provider compiled is written now
    os._exit(0)  # not waiting for a call that nobody waits for


if __name__ == "__main__":
    main()
