"""Graphs without a trusted signature are computed by a process with limits on memory and time."""

import json
import math
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from itertools import count
from math import prod
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, BinaryIO

import numpy as np

from dpd_runtime.annotations import Array
from dpd_runtime.calls import listed
from dpd_runtime.engines import FLOAT_BYTES, Compilation, Engine, Provider, count_rows, fitting, misfit
from dpd_runtime.errors import BundleError, DiskError, DpdError, MemoryShortError, MissingExtraError, ProviderError
from dpd_runtime.text import printable

# -- Graphs that no trusted key has signed run in a process of their own, so that a crash or a graph that wants all
# memory does not end this one. It contains crashes and memory; it is no sandbox (docs/reference/security.md).
#
# The process is a fresh interpreter, not a fork, which would have the bundle's keys in its memory. This process never
# loads ONNX Runtime then.


CALL_SECONDS = 1800.0
"""The longest that one call of a graph, or its loading, may take. A trusted bundle has no limit."""
LEFT_OUT = ("DPD_PASSPHRASE", "PYTHONPATH")
"""Variables that it does not get: a secret, and places that may be relative, which START gives as they are here."""
KILLED = 9  # SIGKILL, which Windows has not
START = "import sys; sys.path[:] = {path!r}; from dpd_runtime.untrusted_worker import main; main()"
ERRORS = {kind.__name__: kind for kind in (BundleError, MemoryShortError, MissingExtraError, ProviderError)}
Answer = tuple[dict[str, Any], dict[str, Array]]


def apart(bundle_hash: str) -> "EngineProcess":
    """The process for the graphs of a bundle; started by the first call and after one that has ended, and ended after
    that of another bundle."""
    if _process(bundle_hash, os.getpid()).ended:
        _process.cache_clear()
    return _process(bundle_hash, os.getpid())


@lru_cache(maxsize=1)
def _process(bundle_hash: str, pid: int) -> "EngineProcess":
    return EngineProcess()


class EngineProcess:
    """A `Host` that is another process."""

    def __init__(self) -> None:
        """Raises:
        MissingExtraError: onnxruntime is not installed.
        DiskError: no temporary folder can be made.
        """
        if find_spec("onnxruntime") is None:
            raise MissingExtraError("onnxruntime", "cpu")
        self._process = _started()
        self._calls, self._engines = count(), count()
        self._answers = _Answers()
        self._dropped: deque[int] = deque()
        self._one_at_a_time, self._stopped = threading.Lock(), False
        threading.Thread(target=self._answers.read, args=(self._process,), daemon=True).start()
        weakref.finalize(self, _end, self._process, os.getpid())

    def available_providers(self) -> tuple[str, ...]:
        return tuple(map(str, self.ask("ONNX Runtime", {"what": "providers"})[0]["found"]))

    def flavour_version(self, flavour: str) -> str:
        return str(self.ask(flavour, {"what": "version", "flavour": flavour})[0]["found"])

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
        number = next(self._engines)
        asked = {
            "what": "load",
            "engine": number,
            "name": name,
            "provider": asdict(provider),
            "threads": threads,
            "shapes": dict(compilation.shapes),
            "cache": compilation.cache and str(compilation.cache.absolute()),
            "halves": halves,
        }
        parts = {"graph": graph, **(weights or {})}
        arrays = {key: np.frombuffer(content, np.uint8) for key, content in parts.items()}
        self.ask(name, asked, arrays, provider)
        made = _EngineApart(self, number, name, provider, row)
        weakref.finalize(made, self._dropped.append, number)
        return made

    def ask(
        self,
        name: str,
        content: dict[str, Any],
        arrays: Mapping[str, Array] = {},
        provider: Provider | None = None,
        most: int = 0,
    ) -> Answer:
        """Send a message and wait for its answer.

        Args:
            name: of the graph, for errors. provider: what computes it.
            most: bytes of the arrays that the answer may have. An answer with more ends the process.

        Raises:
            BundleError: the process was ended by a signal, as by a graph that crashes; or the call takes too long.
            TooLargeError: the answer has more bytes than `most`.
            ProviderError: it was ended so on a GPU, whose libraries can be the reason.
            DpdError: what the process answers with.
        """
        number = next(self._calls)
        call = self._answers.expect(number, most)
        try:
            with self._one_at_a_time:
                dropped = [self._dropped.popleft() for _ in range(len(self._dropped))]
                send(self._process.stdin, content | {"call": number, "dropped": dropped}, arrays)  # type: ignore[arg-type]
            answer = listed(lambda: call.answer.get(timeout=CALL_SECONDS), self.kill)
        except Empty:
            self.kill()
            raise BundleError(
                f"{name}: a call took more than {CALL_SECONDS / 60:.0f} minutes, the limit for a bundle without a "
                "trusted signature; use a faster machine, or a bundle that a trusted key signed"
            ) from None
        except BrokenPipeError:
            answer = None
        except BaseException:  # what a signal's handler raised
            self.kill()
            raise
        finally:
            self._answers.forget(number)
        if isinstance(answer, TooLargeError) and most:
            self.kill()
            raise answer
        if not isinstance(answer, tuple):
            raise self._dead(name, provider)
        said, made = answer
        if "error" in said:
            kind = ERRORS.get(said["error"], BundleError)
            raise kind.__new__(kind, printable(str(said["text"])))  # without its __init__, which may make the sentence
        return said, made

    @property
    def ended(self) -> bool:
        return self._stopped or self._process.poll() is not None

    def kill(self) -> None:
        self._stopped = True
        self._process.kill()

    def _dead(self, name: str, provider: Provider | None) -> DpdError:
        if self._stopped:
            return BundleError(f"{name}: the process that computed it was stopped; open the bundle again")
        self._process.kill()  # it may live on, and have closed its end or sent what is no message
        code = self._process.wait()
        ended = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        if provider is not None and not provider.on_cpu:
            return ProviderError(f"{name}: the process that ran it on {provider.name} {ended}; use --provider cpu")
        blame = "the graph is broken or hostile: do not use this bundle"
        if code == -KILLED:
            blame = (
                "the system does that where memory runs out: end other programs, or use a machine with more; if "
                f"memory was free, {blame}"
            )
        return BundleError(f"{name}: the process that computed it {ended}; {blame}")


def _started() -> "subprocess.Popen[bytes]":
    """Start the process in a folder that is deleted at once: no relative path leads to a file, or can make one."""
    try:
        with tempfile.TemporaryDirectory(prefix="dpd-", ignore_cleanup_errors=True) as empty:
            return subprocess.Popen(
                [sys.executable, "-P", "-c", START.format(path=[str(Path(place).absolute()) for place in sys.path])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=None if os.environ.get("DPD_DEBUG") else subprocess.DEVNULL,
                env={name: value for name, value in os.environ.items() if name not in LEFT_OUT},
                cwd=empty,
            )
    except OSError as error:
        raise DiskError(
            f"a process for graphs without a trusted signature cannot be started ({error.strerror}); "
            "set TMPDIR to a folder that can be written, or use a bundle that a trusted key signed"
        ) from error


class _EngineApart:
    """A graph in another process."""

    def __init__(
        self, process: EngineProcess, number: int, name: str, provider: Provider, row: tuple[int, ...] | None
    ) -> None:
        self._process, self._number, self._name, self._provider = process, number, name, provider
        self._row = row

    def run(self, **inputs: Array) -> Array:
        """Raises BundleError for an output of another shape than is known, before it is read if it is larger."""
        shape = None if self._row is None else (count_rows(inputs), *self._row)
        most = LARGEST if shape is None else FLOAT_BYTES * prod(shape)
        asked = {"what": "run", "engine": self._number}
        try:
            _, made = self._process.ask(self._name, asked, inputs, self._provider, most)
        except TooLargeError as error:
            raise misfit(self._name, str(error), shape) from error
        if "output" not in made:
            raise BundleError(f"{self._name} gave no output; export the bundle again")
        return made["output"] if shape is None else fitting(made["output"], self._name, shape)


@dataclass(frozen=True)
class _Call:
    """One that waits for its answer. most: bytes of the arrays that the answer may have."""

    most: int
    answer: "SimpleQueue[Answer | TooLargeError | None]" = field(default_factory=SimpleQueue)


class _Answers:
    """Hands each answer to the call that waits for it; None to all once there will be no more."""

    def __init__(self) -> None:
        self._waiting: dict[int, _Call] = {}
        self._ended = False

    def expect(self, number: int, most: int) -> _Call:
        call = self._waiting[number] = _Call(most)
        if self._ended:
            call.answer.put(None)
        return call

    def forget(self, number: int) -> None:
        self._waiting.pop(number, None)

    def read(self, process: "subprocess.Popen[bytes]") -> None:
        """Read answers until the process ends, or sends what is none: a second answer, or one that nobody waits for,
        which would fill this process."""
        try:
            while True:
                said = receive_content(process.stdout)  # type: ignore[arg-type]
                number = said.pop("call")
                call = self._waiting[number]
                try:
                    made = receive_arrays(process.stdout, said.pop("arrays"), call.most)  # type: ignore[arg-type]
                except TooLargeError as error:
                    call.answer.put(error)
                    raise
                self.forget(number)
                call.answer.put((said, made))
        except (EOFError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, MemoryError):
            self._ended = True
            for call in list(self._waiting.values()):
                call.answer.put(None)


def _end(process: "subprocess.Popen[bytes]", pid: int) -> None:
    """Let the process end. Not from a fork of ours, whose copy of the pipes is another one."""
    if os.getpid() != pid:
        return
    with suppress(OSError):
        process.stdin.close()  # type: ignore[union-attr]
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()  # type: ignore[union-attr]


# -- Messages between this process and one that computes untrusted graphs: a JSON object, and arrays behind it.
#
# A message is u32le n ‖ n bytes of JSON ‖ the arrays' bytes. The JSON has the key "arrays": [[name, dtype, shape], …].
# Nothing is unpickled, since the other process may be in an attacker's hands.


LONGEST = 2**20  # bytes of JSON
LARGEST = 2**31  # bytes of all arrays that an untrusted process sends, where nothing tells how many there will be
MOST_AXES = 64  # of NumPy
DTYPES = ("float16", "float32", "float64", "int8", "int32", "int64", "uint8", "bool")
_LENGTH = struct.Struct("<I")


def send(stream: BinaryIO, content: Mapping[str, Any], arrays: Mapping[str, Array] = {}) -> None:
    """Write a message. The arrays' types are among DTYPES."""
    listed = [[name, array.dtype.name, list(array.shape)] for name, array in arrays.items()]
    raw = json.dumps({**content, "arrays": listed}, allow_nan=False).encode()
    stream.write(_LENGTH.pack(len(raw)) + raw)
    for array in arrays.values():
        stream.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    stream.flush()


class TooLargeError(ValueError):
    """An array of more bytes than were asked for. The text is its type and shape, such as "float32 [8, 100000]"."""


def receive(stream: BinaryIO, most: int = LARGEST) -> tuple[dict[str, Any], dict[str, Array]]:
    """Read a message.

    Args:
        most: bytes of all its arrays together.

    Raises:
        EOFError: the stream ends.
        ValueError: not a message.
    """
    content = receive_content(stream)
    return content, receive_arrays(stream, content.pop("arrays"), most)


def receive_content(stream: BinaryIO) -> dict[str, Any]:
    """Read the first part of a message: its content, with the key "arrays".

    Raises:
        EOFError: the stream ends.
        ValueError: not a message.
    """
    (length,) = _LENGTH.unpack(_read(stream, _LENGTH.size))
    if length > LONGEST:
        raise ValueError(f"a message of {length} bytes")
    content: dict[str, Any] = json.loads(_read(stream, length))
    return content


def receive_arrays(stream: BinaryIO, listed: Any, most: int) -> dict[str, Array]:
    """Read the arrays of a message, which are `listed` in its content, if they have at most so many bytes together.

    Raises:
        EOFError: the stream ends.
        TooLargeError: more bytes. None of the array that goes beyond `most` was read.
        ValueError: no list of arrays.
    """
    arrays, left = {}, most
    for name, dtype, shape in listed:
        # the types first: Python multiplies texts and lists as well, into gigabytes
        good = dtype in DTYPES and isinstance(shape, list) and len(shape) <= MOST_AXES
        if not good or not all(type(side) is int and side >= 0 for side in shape):
            raise ValueError(f"a message with an array of {dtype!r:.40} {shape!r:.200}")
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size > left:
            raise TooLargeError(f"{dtype} {shape!r:.200}")
        left -= size
        arrays[name] = np.frombuffer(_read(stream, size), dtype).reshape(shape)
    return arrays


def _read(stream: BinaryIO, size: int) -> bytearray:
    content = bytearray(size)
    at, view = 0, memoryview(content)
    while at < size:
        got = stream.readinto(view[at:])  # type: ignore[attr-defined]
        if not got:
            raise EOFError
        at += got
    return content
