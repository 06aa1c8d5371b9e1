"""Strict reading of JSON from outside: keys once, bounded depth and size; rules for texts that people read."""

import json
import re
from typing import Any

from dpd_runtime.errors import BundleError

MAX_DEPTH = 32
MAX_JSON_BYTES = 8 * 2**20
"""Of every JSON file of a bundle: ten thousand classes fit, and Python needs up to 25 times as much to hold it."""
MAX_KEYS = 10_000  # of one object: as many as a bundle has files, the longest object that dpd writes
LONGEST_NAME = 200
LONGEST_TEXT = 2_000
# Letters that cannot be seen although their Unicode categories (Lo, Mn, So) are those of visible ones: fillers, blanks
# and variation selectors. str.isprintable() refuses Cc, Cf (zero width, bidirectional), Cs, Co, Cn, Zl, Zp and
# all spaces but the usual one.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]"
)


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
        BundleError: not JSON, larger than MAX_JSON_BYTES, a duplicate key, more than MAX_KEYS keys in an object, or
            nested deeper than MAX_DEPTH.
    """
    check_json_size(len(raw), name)
    try:
        content = json.loads(raw, object_pairs_hook=each_key_once)
        if depth_of(content) > MAX_DEPTH:
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
