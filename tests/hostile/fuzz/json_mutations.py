"""Hostile JSON: any value in any place of the three tables that a site parses."""

import copy
import json
import math
from typing import Any

from hypothesis import strategies as st

from tests.hostile.fuzz.material import Material

TABLES = ("bundle.json", "classes.json", "scheduler/scheduler_config.json")
HOSTILE = st.one_of(
    st.sampled_from(
        [
            *(None, True, False, "", [], {}, 0, -1, 1, 2, 10**9, 2**31, 2**63, -(2**63), 10**400, 0.5, -0.0, 1e308),
            *(math.nan, math.inf, -math.inf, "..", "../../x", "/etc/passwd", "\x1b[2J", "\u202e", "\ud800", "a\nb"),
            *("x" * 100_000, "9" * 5000, "centroid", "pooled", "lcm", "tcd", "euler", "epsilon", "sample", "leading"),
            *([0] * 1000, [[0]], {"": {}}, ["a", "a"], 1000, 1024, 64, 8192, 100_000, "dataset.json", "dpm++2m"),
        ]
    ),
    st.integers(-(10**6), 10**12),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(-1, 10**10), max_size=4),
)


def places(content: Any, at: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The path of every value in parsed JSON."""
    items: list[tuple[str | int, Any]] = []
    if isinstance(content, dict):
        items = list(content.items())
    elif isinstance(content, list):
        items = list(enumerate(content))
    return [(*at, key) for key, _ in items] + [p for key, value in items for p in places(value, (*at, key))]


def changed(content: Any, path: tuple[str | int, ...], value: object) -> Any:
    whole = copy.deepcopy(content)
    at = whole
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return whole


def table_of(material: Material, name: str) -> Any:
    return material.manifest if name == "bundle.json" else material.json_of(name)


def with_table(material: Material, name: str, content: Any) -> Material:
    if name != "bundle.json":
        return material.with_json(name, content)
    return Material(material.files, content) if isinstance(content, dict) else material


@st.composite
def json_values(draw: st.DrawFn, material: Material) -> Material:
    """One to three values of one table replaced, left out or added."""
    name = draw(st.sampled_from(TABLES))
    content = copy.deepcopy(table_of(material, name))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(content)))
        if draw(st.integers(0, 9)) == 0:
            parent = content
            for key in path[:-1]:
                parent = parent[key]
            del parent[path[-1]]
        else:
            content = changed(content, path, draw(HOSTILE))
        if not places(content):
            break
    return with_table(material, name, content)


@st.composite
def json_texts(draw: st.DrawFn, material: Material) -> dict[str, bytes]:
    """What `json.dumps` would not write: keys twice, depth, giant numbers, damaged bytes; hashes hold all the same."""
    name = draw(st.sampled_from(TABLES))
    raw = material.sealed()[name]
    kind = draw(st.integers(0, 4))
    if kind == 0:
        key = draw(st.sampled_from(sorted(json.loads(raw))))
        twice = json.dumps({key: draw(HOSTILE)}).encode()
        raw = twice[:-1] + b", " + raw.lstrip()[1:]
    elif kind == 1:
        depth = draw(st.integers(1, 100_000))
        opening, closing = draw(st.sampled_from([(b"[", b"]"), (b'{"a":', b"}")]))
        nested = opening * depth + b"0" + closing * (depth if draw(st.booleans()) else 0)
        raw = b'{"data": ' + nested + b", " + raw.lstrip()[1:]
    elif kind == 2:
        number = draw(st.sampled_from([b"9" * 100_000, b"1e999", b"-1e999999", b"NaN", b"0.0" + b"1" * 10_000]))
        raw = b'{"name": ' + number + b", " + raw.lstrip()[1:]
    else:
        damaged = bytearray(raw)
        for _ in range(draw(st.integers(1, 4))):
            damaged[draw(st.integers(0, len(raw) - 1))] = draw(st.integers(0, 255))
        raw = bytes(damaged) if kind == 3 else raw[: draw(st.integers(0, len(raw)))]
    return material.sealed() | {name: raw} if name == "bundle.json" else material.with_file(name, raw).sealed()
