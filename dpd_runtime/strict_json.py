"""Strict reading of JSON from outside: keys once, finite numbers, bounded depth and size."""

import json
from typing import Any

from dpd_runtime.errors import BundleError

MAX_DEPTH = 32
MAX_JSON_BYTES = 8 * 2**20
"""Of every JSON file of a bundle: ten thousand classes fit, and Python needs up to 25 times as much to hold it."""
MAX_KEYS = 10_000  # of one object: as many as a bundle has files, the longest object that dpd writes
LARGEST = 1e30
"""Of every number: float32 holds it, and so does what is computed from a few of them."""


def each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these keys and values, for `json.loads`.

    Raises:
        ValueError: a key occurs twice, or there are more than MAX_KEYS.
    """
    if len(pairs) > MAX_KEYS:
        raise ValueError(f"an object of {len(pairs)} keys, more than {MAX_KEYS}")
    content = dict(pairs)
    if len(content) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"key {key[:60]!r} occurs twice")
            seen.add(key)
    return content


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _number(text: str) -> float:
    if not abs(value := float(text)) <= LARGEST:
        raise ValueError(f"{text[:20]} is too large a number")
    return value


def _whole(text: str) -> int:
    _number(text)
    return int(text)


def loads(raw: str | bytes) -> Any:
    """Parse foreign JSON, as `json.loads` does.

    Raises:
        ValueError: not JSON, which has no NaN or Infinity; a number beyond LARGEST, which `json` would make infinite or
            a whole number of any length; a duplicate key, or more than MAX_KEYS keys in an object; nested deeper than
            MAX_DEPTH.
    """
    try:
        content = json.loads(
            raw, object_pairs_hook=each_key_once, parse_constant=_no_constant, parse_float=_number, parse_int=_whole
        )
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels") from None
    if depth_of(content) > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    return content


def depth_of(content: object) -> int:
    """Nesting depth of lists and objects, found without recursion."""
    depth, level = 0, [content]
    while level := [part for part in level if isinstance(part, dict | list)]:
        depth += 1
        level = [inner for part in level for inner in (part.values() if isinstance(part, dict) else part)]
    return depth


def check_json_size(size: int, name: str) -> None:
    """Raises:
    BundleError: a JSON file of a bundle has more than MAX_JSON_BYTES.
    """
    if size > MAX_JSON_BYTES:
        raise BundleError(f"{name} has {size} bytes, more than {MAX_JSON_BYTES}; export the bundle again")


def parse_json(raw: bytes, name: str) -> Any:
    """Parse JSON of a bundle.

    Raises:
        BundleError: larger than MAX_JSON_BYTES, or what `loads` refuses.
    """
    check_json_size(len(raw), name)
    try:
        return loads(raw)
    except ValueError as error:
        raise BundleError(
            f"{name} is not valid JSON ({error}): it was changed or damaged; fetch or export it again"
        ) from error
