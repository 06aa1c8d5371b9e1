"""Strict reading of JSON from outside: no duplicate keys, no deep nesting; rules for texts that people read."""

import json
import re
from typing import Any

from dpd_runtime.errors import BundleError

MAX_DEPTH = 32
LONGEST_NAME = 200
LONGEST_TEXT = 2_000
# Letters that cannot be seen although their Unicode categories (Lo, Mn, So) are those of visible ones: fillers, blanks
# and variation selectors. str.isprintable() refuses Cc, Cf (zero width, bidirectional), Cs, Co, Cn, Zl, Zp and
# all spaces but the usual one.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]"
)


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


def is_visible(text: str) -> bool:
    """Whether every letter can be seen: no control, formatting, private, unassigned or blank letters but the space."""
    return text.isprintable() and not _INVISIBLE.search(text)


def is_readable(content: object, longest: int = LONGEST_TEXT) -> bool:
    """Whether all texts in parsed JSON are visible and have at most `longest` letters."""
    if isinstance(content, dict):
        return all(is_readable(key, longest) and is_readable(value, longest) for key, value in content.items())
    if isinstance(content, list | tuple):
        return all(is_readable(value, longest) for value in content)
    return not isinstance(content, str) or (len(content) <= longest and is_visible(content))
