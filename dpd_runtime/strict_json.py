"""Strict reading of JSON from outside: duplicate keys and deep nesting are refused."""

import json
from typing import Any

from dpd_runtime.errors import BundleError

MAX_DEPTH = 32


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return content


def _depth(content: object) -> int:
    """Nesting depth of lists and objects, found without recursion."""
    depth, level = 0, [content]
    while level := [part for part in level if isinstance(part, dict | list)]:
        depth += 1
        level = [inner for part in level for inner in (part.values() if isinstance(part, dict) else part)]
    return depth


def parse_json(raw: bytes, name: str) -> Any:
    """Parse JSON of a bundle.

    Raises:
        BundleError: not JSON, a duplicate key, or nested deeper than MAX_DEPTH.
    """
    try:
        content = json.loads(raw, object_pairs_hook=_each_key_once)
        if _depth(content) > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    except (ValueError, RecursionError) as error:
        raise BundleError(
            f"{name} is not valid JSON ({error}): it was changed or damaged; fetch or export it again"
        ) from error
    return content
