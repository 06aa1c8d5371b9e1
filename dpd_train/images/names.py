"""File names as they may stand in a message or a report: one line, valid UTF-8, nothing that a terminal obeys."""

import unicodedata
from pathlib import PurePath

# Control characters, line and paragraph separators; bidirectional overrides show a name as another one.
UNSEEN = frozenset({"Cc", "Zl", "Zp"})
OVERRIDES = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: PurePath | str) -> str:
    """`text` with backslash escapes for bytes that are not UTF-8 and for characters that are not to be seen."""
    decoded = str(text).encode("utf-8", "backslashreplace").decode()
    return "".join(_escaped(c) if c in OVERRIDES or unicodedata.category(c) in UNSEEN else c for c in decoded)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
