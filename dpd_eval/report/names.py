"""Shorten paths to folder names, so that the page does not reveal where they are on this machine."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

PARTS = ("train", "val", "test")
# Foreign text is matched by it. So no part of it gives back what it took (++), and what begins like a path is taken up
# to its end, whether there is a name in it or not: each letter is read once, however often paths seem to begin.
_PATH = re.compile(
    r"(?P<url>https?://\S++)"
    r"|(?:file:/{2}|(?<![\w.\-/\\<])(?:~\w*+|[A-Za-z]:)?[/\\]|(?<![\w./])\.{1,2}[/\\])"
    r"(?P<names>(?:(?!https?://)[^\s'\"`,;<>|()])*+)"
)


def hide_paths(text: str) -> str:
    """Replace every absolute, home or parent-relative path in a text by its last name; URLs stay.

    Unprintable characters (controls, bidirectional marks) become U+FFFD, because they could disguise a command line.
    """
    shown = _PATH.sub(_last_name, text)
    return shown if shown.isprintable() else "".join(c if c.isprintable() or c == "\n" else "�" for c in shown)


def _last_name(match: re.Match[str]) -> str:
    """The last name of a path, with what follows it behind a colon, such as the number of a line."""
    if match["url"]:
        return match[0]
    path = match["names"].rstrip("/\\:")
    name = path[max(path.rfind("/"), path.rfind("\\")) + 1 :]
    colons = match["names"][len(path) :].replace("/", "").replace("\\", "")
    return name + colons if name not in ("", ".", "..") else match[0]


def hide_all_paths(content: Any) -> Any:
    """Apply `hide_paths` to every key and every text in JSON content."""
    if isinstance(content, str):
        return hide_paths(content)
    if isinstance(content, Mapping):
        return {hide_paths(str(key)): hide_all_paths(value) for key, value in content.items()}
    return [hide_all_paths(value) for value in content] if isinstance(content, list | tuple) else content


def short_names(paths: Sequence[str]) -> tuple[str, ...]:
    """Shorten each path to the fewest last names that keep them distinct; `train`, `val`, `test` keep their folder.

    `("/a/euro/test", "/b/set0")` → `("euro/test", "set0")`. Paths that remain equal are numbered.
    """
    split = [_names(path) for path in paths]
    lengths = [2 if names[-1] in PARTS else 1 for names in split]
    for extra in range(3):
        short = ["/".join(names[-(length + extra) :]) for names, length in zip(split, lengths, strict=True)]
        if len(set(short)) == len(set(map(tuple, split))):
            return tuple(map(hide_paths, short))
    seen: dict[tuple[str, ...], int] = {}
    numbers = [seen.setdefault(tuple(names), len(seen) + 1) for names in split]
    return tuple(hide_paths(f"{names[-1]} ({number})") for names, number in zip(split, numbers, strict=True))


def short_name(path: str) -> str:
    return short_names((path,))[0]


def _names(path: str) -> list[str]:
    """Split a POSIX or Windows path into names, without root, `.` and `..`."""
    names = [name for name in re.split(r"[\\/]+", path) if name not in ("", ".", "..", "~")]
    if names and re.fullmatch("[A-Za-z]:", names[0]):  # a drive
        names = names[1:]
    return names or ["."]
