"""No regular expression backtracks on foreign text, words of a shown command are quoted, JSON has no NaN."""

import ast
import itertools
import re
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
if not (ROOT / "dpd_runtime").is_dir():
    pytest.skip("the sources are not here", allow_module_level=True)
PACKAGES = ("dpd_runtime", "dpd_train", "dpd_eval", "dpd_distill", "export", "cli", "neighbours")
LONG = 10_000  # letters; a quadratic search takes half a second or more
MOST = 0.2  # seconds
PATTERN_CALLS = {"compile", "search", "match", "fullmatch", "sub", "split", "findall", "finditer", "subn"}
BOUNDED = {
    # patterns that backtrack on texts which nobody else can make long
    r"([A-Z]+)([A-Z][a-z])": "names of classes, at most 255 bytes",
    r"[^,;.\n:]*:": "answers of a captioner, which are cut before",
    r'(\w+)="([^"]*)"': "attributes of an item of GDAL's metadata, at most 200 letters",
    r"cuda-runtime(?:-cu(\d+)|[^;]*?(\d+)\.)": "metadata of installed packages",
}


@cache
def sources() -> list[tuple[Path, ast.AST]]:
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return [(path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))) for path in paths]


def calls(tree: ast.AST, module: str) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        function = node.func if isinstance(node, ast.Call) else None
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id == module:
            assert isinstance(node, ast.Call)
            yield function.attr, node


Pattern = re.Pattern[str] | re.Pattern[bytes]


def patterns() -> Iterator[tuple[str, Pattern, bool]]:
    """Place and pattern of every regular expression that is a constant of the code, and whether nothing searches by it
    in the middle of a text."""
    for path, tree in sources():
        text = (ROOT / path).read_text(encoding="utf-8")
        for name, call in calls(tree, "re"):
            if name not in PATTERN_CALLS or not call.args:
                continue
            try:
                constant = ast.literal_eval(call.args[0])
            except ValueError:
                continue
            line = text.splitlines()[call.lineno - 1]
            stem = line.partition(" = ")[0].strip()
            assigned = name == "compile" and stem.isidentifier()
            searched = rf"\b{stem}\.(search|sub|subn|split|findall|finditer)\b"
            anchored = not re.search(searched, text) if assigned else name in ("match", "fullmatch")
            yield f"{path}:{call.lineno}", re.compile(constant), anchored


FOUND = list(patterns())
PATTERNS = {place: pattern for place, pattern, _ in FOUND}
ANCHORED = {place: anchored for place, _, anchored in FOUND}


def letters_of(pattern: str) -> list[str]:
    """Letters that parts of the pattern match, and some that hardly any does."""
    known = dict.fromkeys(c for c in re.sub(r"\\[wdsbWDSB]|\(\?[P:=!<a-z]*", "", pattern) if not c.isalnum())
    some = dict.fromkeys(c for c in pattern if c.isalnum())
    return [*list(known)[:14], "a", "Z", "0", " ", *list(some)[:3]]


def hard_texts(pattern: str) -> Iterator[str]:
    """Texts that repeat one, two or three of the letters, with and without an end that matches nothing."""
    letters = list(dict.fromkeys(letters_of(pattern)))
    units = [*letters, *map("".join, itertools.permutations(letters, 2))]
    units += [a + b + a for a, b in itertools.permutations(letters[:6], 2)]
    for unit in units:
        yield unit * (LONG // len(unit)) + "\0"


def seconds_of(pattern: Pattern, text: str, *, anchored: bool = False) -> float:
    began = time.process_time()
    content: Any = text.encode() if isinstance(pattern.pattern, bytes) else text
    if anchored:
        pattern.match(content)
        pattern.fullmatch(content)
    else:
        for _ in pattern.finditer(content):
            pass
    return time.process_time() - began


def slowest(pattern: Pattern, *, anchored: bool = False) -> float:
    source = pattern.pattern if isinstance(pattern.pattern, str) else pattern.pattern.decode()
    worst = 0.0
    for text in hard_texts(source):
        worst = max(worst, seconds_of(pattern, text, anchored=anchored))
        if worst > MOST:
            break
    return worst


@pytest.mark.parametrize("place", PATTERNS)
def test_no_pattern_backtracks(place: str) -> None:
    pattern = PATTERNS[place]
    if pattern.pattern in BOUNDED:
        pytest.skip(BOUNDED[str(pattern.pattern)])
    assert slowest(pattern, anchored=ANCHORED[place]) < MOST


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?<!\w)/(?:[^\s/]+/)*(?P<last>[^\s/:]+)",  # as the report's was
        r"([A-Z]+)([A-Z][a-z])",
        r"(a+)+b",
        r"\s+$",
    ],
)
def test_a_pattern_that_backtracks_is_found(pattern: str) -> None:
    """Control. The first texts are short, as some of these would take for ever."""
    if pattern == r"(a+)+b":
        assert seconds_of(re.compile(pattern), "a" * 21 + "\0") > 0.02
        return
    assert slowest(re.compile(pattern)) > MOST


def test_shell_words_are_quoted_in_one_place() -> None:
    users = [str(path) for path, tree in sources() if any(True for _ in calls(tree, "shlex"))]
    # the install line is part of an error, and errors are what command lines raise
    assert users == ["dpd_runtime/installation.py", "dpd_runtime/text.py"]


def test_no_writer_of_json_writes_nan() -> None:
    """`json` writes NaN and Infinity, which no strict reader reads."""
    careless = []
    for path, tree in sources():
        written = [call for name, call in calls(tree, "json") if name in ("dump", "dumps")]
        said = [{keyword.arg for keyword in call.keywords} for call in written]
        careless += [
            f"{path}:{call.lineno}" for call, names in zip(written, said, strict=True) if "allow_nan" not in names
        ]
    assert careless == []
