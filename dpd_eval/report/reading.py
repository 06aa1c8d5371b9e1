"""Read JSON from outside: every value is checked when it is used, and paths in texts are shortened."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpd_eval.report.names import hide_paths
from dpd_runtime.errors import InputError
from dpd_runtime.files import open_regular
from dpd_runtime.strict_json import MAX_DEPTH, MAX_JSON_BYTES, depth_of, each_key_once

MAX_BYTES = 64 * 2**20
LARGEST = 1e30


def read_file(path: Path) -> bytes:
    """Read a file.

    Raises:
        InputError: it cannot be read, or it is larger than any result of dpd.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_BYTES:
                raise InputError(f"{path}: {size} bytes are too large for a result of dpd; give the JSON file")
            return file.read(size)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the name") from None


def parse_json(raw: bytes, where: str) -> "Node":
    """Parse a JSON object.

    Raises:
        InputError: not JSON, beyond the limits of `dpd_runtime.strict_json`, not an object, or a number that is not
            finite.
    """

    def refuse(name: str) -> float:
        raise ValueError(f"{name} is not a JSON number")

    try:
        if len(raw) > MAX_JSON_BYTES:
            raise ValueError(f"more than {MAX_JSON_BYTES} bytes")
        content = json.loads(raw, parse_constant=refuse, object_pairs_hook=each_key_once)
        if depth_of(content) > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: is not JSON ({error}); give a file that dpd wrote") from None
    if not isinstance(content, dict):
        raise InputError(f"{where}: contains a {type(content).__name__}, not an object; give a file that dpd wrote")
    return Node(content, where)


class Node:
    """An object in a JSON file. A missing value gives a default or an error; a value of the wrong type is an error."""

    def __init__(self, content: Mapping[str, Any], where: str) -> None:
        self.content, self.where = content, where

    def __contains__(self, key: str) -> bool:
        return self.content.get(key) is not None

    def wrong(self, key: str, wanted: str) -> InputError:
        found = "missing" if self.content.get(key) is None else f"{self.content[key]!r:.40}"
        return InputError(
            f"{self.where}: {key} is {found}, not {wanted}; the file was changed or written by another version"
        )

    def number(self, key: str) -> float:
        value = self.maybe_number(key)
        if value is None:
            raise self.wrong(key, "a number")
        return value

    def maybe_number(self, key: str) -> float | None:
        value = self.content.get(key)
        if value is None:
            return None
        return _number(value, self, key, "a number")

    def share(self, key: str) -> float:
        """Return a number in [0, 1]."""
        value = self.number(key)
        if not 0 <= value <= 1:
            raise self.wrong(key, "a share in 0 … 1")
        return value

    def shares(self, key: str) -> tuple[float, ...]:
        values = self.numbers(key)
        if not all(0 <= value <= 1 for value in values):
            raise self.wrong(key, "shares in 0 … 1")
        return values

    def whole(self, key: str) -> int:
        value = self.maybe_whole(key)
        if value is None:
            raise self.wrong(key, "a whole number")
        return value

    def maybe_whole(self, key: str) -> int | None:
        value = self.maybe_number(key)
        if value is not None and value != int(value):
            raise self.wrong(key, "a whole number")
        return None if value is None else int(value)

    def raw_text(self, key: str, default: str = "") -> str:
        """Return the text unchanged; for paths only, which `short_names` shortens."""
        value = self.content.get(key, default)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.wrong(key, "text")
        return value

    def text(self, key: str, default: str = "") -> str:
        return hide_paths(self.raw_text(key, default))

    def flag(self, key: str) -> bool:
        value = self.content.get(key, False)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def raw_texts(self, key: str) -> tuple[str, ...]:
        values = self._list(key)
        if not all(isinstance(value, str) for value in values):
            raise self.wrong(key, "a list of texts")
        return tuple(values)

    def texts(self, key: str) -> tuple[str, ...]:
        return tuple(map(hide_paths, self.raw_texts(key)))

    def numbers(self, key: str) -> tuple[float, ...]:
        return tuple(_number(value, self, key) for value in self._list(key))

    def wholes(self, key: str) -> tuple[int, ...]:
        return tuple(map(int, self.numbers(key)))

    def matrix(self, key: str) -> tuple[tuple[float, ...], ...]:
        """Return a square matrix [n, n] of numbers ≥ 0; () if there is none."""
        rows = self._list(key)
        if any(not isinstance(row, list) or len(row) != len(rows) for row in rows):
            raise self.wrong(key, "a square matrix")
        found = tuple(tuple(_number(value, self, key) for value in row) for row in rows)
        if any(value < 0 for row in found for value in row):
            raise self.wrong(key, "a matrix of counts")
        return found

    def numbers_by_name(self, key: str) -> dict[str, float]:
        """Return values by name; null values are omitted."""
        node = self.child(key)
        return {} if node is None else {hide_paths(name): node.number(name) for name in node.content if name in node}

    def shares_by_name(self, key: str) -> dict[str, float]:
        """Return values by name; null values are omitted."""
        node = self.child(key)
        return {} if node is None else {hide_paths(name): node.share(name) for name in node.content if name in node}

    def texts_by_name(self, key: str) -> dict[str, str]:
        node = self.child(key)
        return {} if node is None else {hide_paths(name): node.text(name) for name in node.content}

    def child(self, key: str) -> "Node | None":
        value = self.content.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.wrong(key, "an object")
        return Node(value, f"{self.where}: {key}")

    def children(self, key: str) -> tuple["Node", ...]:
        values = self._list(key)
        if not all(isinstance(value, dict) for value in values):
            raise self.wrong(key, "a list of objects")
        return tuple(Node(value, f"{self.where}: {key}[{i}]") for i, value in enumerate(values))

    def _list(self, key: str) -> list[Any]:
        value = self.content.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.wrong(key, "a list")
        return value


def _number(value: object, node: Node, key: str, wanted: str = "finite numbers") -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST
    if not good:  # NaN is not good either
        raise node.wrong(key, wanted)
    return float(value)  # type: ignore[arg-type]
