"""JSON from outside: what two readers could read differently, or what breaks those that walk through it, is refused."""

import json
from typing import Any

from dpd_runtime.errors import BundleError

MAX_DEPTH = 32


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return content


def _depth(content: object) -> int:
    """Lists and objects within each other, counted level by level: no recursion."""
    depth, level = 0, [content]
    while level := [part for part in level if isinstance(part, dict | list)]:
        depth += 1
        level = [inner for part in level for inner in (part.values() if isinstance(part, dict) else part)]
    return depth


def parse_json(raw: bytes, name: str) -> Any:
    """Raises:
    BundleError: no JSON, one key twice in an object, or deeper than MAX_DEPTH.
    """
    try:
        content = json.loads(raw, object_pairs_hook=_each_key_once)
        if _depth(content) > MAX_DEPTH:
            raise ValueError(f"deeper than {MAX_DEPTH} levels")
    except (ValueError, RecursionError) as error:
        raise BundleError(
            f"{name} is not JSON ({error}): it was changed or damaged, fetch or export it again"
        ) from error
    return content
