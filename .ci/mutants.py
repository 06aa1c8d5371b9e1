"""What the tests see: small faults in the product's code, and whether the tests that run those lines fail.

A fault that the short tests do not see is offered to those marked full, so that one run compares both.

    python .ci/mutants.py cover --tree T --out cover.json                # which test runs which line; one run of all
    python .ci/mutants.py cover tests/unit … --tree T --out part.json    # of some; `draw` and `kill` join parts
    python .ci/mutants.py draw cover.json … --tree T --number 240 --seed 0 --out mutants.json
    python .ci/mutants.py kill mutants.json cover.json … --tree T --out killed.json

T is a clone of its own: its files are changed, one fault at a time, and changed back. To compare old tests with new
ones, `draw` once by the old cover, then `kill` in a clone with the old tests and in one with the new tests and their
own cover. A fault in a line that only a shared fixture runs is tried on the tests that use the fixture.
"""

import argparse
import ast
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOMS = (
    "dpd_runtime",
    "dpd_train",
    "dpd_eval",
    "dpd_distill",
    "dpd_private",
    "export/dpd_export",
    "cli/dpd_cli",
    "neighbours/dpd_neighbours",
)
MOST_SECONDS = 120.0  # of tests for one fault, by the time that they took in the run of `cover`
CONFIGURATION = """
[run]
parallel = true
branch = false
concurrency = thread,multiprocessing
patch = subprocess, fork, _exit
context = ${PYTEST_CURRENT_TEST-}
data_file = %s/coverage
source = %s
"""
PLUGIN = """
import json, os, time
import pytest
from collections import defaultdict
from coverage import Coverage

USERS, SECONDS = defaultdict(list), {}

def switch(name):
    if Coverage.current() is not None:
        Coverage.current().switch_context(name)

@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    begun = time.monotonic()
    switch(item.nodeid)
    try:
        return (yield)
    finally:
        SECONDS[item.nodeid] = time.monotonic() - begun
        for name in item.fixturenames:
            USERS[f"fixture {name}"].append(item.nodeid)

@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef, request):
    if fixturedef.scope == "function":
        return (yield)
    switch(f"fixture {fixturedef.argname}")
    try:
        return (yield)
    finally:
        switch(request._pyfuncitem.nodeid)

def pytest_sessionfinish():
    with open(os.environ["DPD_COVER"], "w") as file:
        json.dump({"users": USERS, "seconds": SECONDS}, file)
"""
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.Add: ast.Sub, ast.Sub: ast.Add,
    ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


def environment(tree: Path) -> dict[str, str]:
    threads = {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return (
        os.environ
        | threads
        | {"PYTHONPATH": os.pathsep.join(str(tree / root) for root in (".", "export", "cli", "neighbours"))}
    )


def pytest(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]


def cover(tree: Path, tests: list[Path]) -> dict[str, Any]:
    """Run all tests, or these, once: which test ran which line, who uses which fixture, and how long each test took."""
    from coverage import CoverageData, CoverageException

    with tempfile.TemporaryDirectory() as work:
        place = Path(work)
        (place / "rc").write_text(CONFIGURATION % (work, ",".join(str(tree / room) for room in ROOMS)))
        (place / "dpd_cover.py").write_text(PLUGIN)
        given = environment(tree) | {"DPD_COVER": str(place / "tests.json")}
        given["PYTHONPATH"] += os.pathsep + work
        run = [sys.executable, "-m", "coverage", "run", "--rcfile", str(place / "rc"), *pytest()[1:]]
        subprocess.run([*run, "-p", "dpd_cover", "-n", "0", *map(str, tests)], cwd=tree, env=given, check=False)
        found: dict[str, Any] = json.loads((place / "tests.json").read_text())
        lines: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        for file in place.glob("coverage.*"):
            data = CoverageData(str(file))
            try:
                data.read()
            except CoverageException:  # of a process that was killed while it wrote
                continue
            for path in data.measured_files():
                for line, contexts in data.contexts_by_lineno(path).items():
                    names = (context.split("|")[-1].rpartition(" (")[0] or context for context in contexts)
                    lines[str(Path(path).relative_to(tree))][line] |= {name for name in names if name}
    return found | {"lines": {path: {n: sorted(names) for n, names in of.items()} for path, of in lines.items()}}


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """What several runs of `cover` found."""
    lines: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    users: dict[str, list[str]] = defaultdict(list)
    for part in parts:
        for path, of in part["lines"].items():
            for line, names in of.items():
                lines[path][line] += names
        for name, tests in part["users"].items():
            users[name] += tests
    return {"lines": lines, "users": users, "seconds": {k: v for part in parts for k, v in part["seconds"].items()}}


def faults(source: str) -> Iterator[tuple[int, int, int, str]]:
    """All small faults inside functions: line, first and last column in bytes, and what stands there instead."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    for node in (inner for function in functions for statement in function.body for inner in ast.walk(statement)):
        changed: ast.AST | None = None
        match node:
            case ast.Compare(left, [operator], [right]) if type(operator) in SWAPS:
                changed = ast.Compare(left, [SWAPS[type(operator)]()], [right])  # type: ignore[list-item]
            case ast.BinOp(left, operator, right) if type(operator) in SWAPS:
                changed = ast.BinOp(left, SWAPS[type(operator)](), right)  # type: ignore[arg-type]
            case ast.BoolOp(operator, values):
                changed = ast.BoolOp(SWAPS[type(operator)](), values)  # type: ignore[arg-type]
            case ast.UnaryOp(ast.Not(), operand):
                changed = operand
            case ast.Constant(value) if isinstance(value, bool):
                changed = ast.Constant(not value)
            case ast.Constant(value) if isinstance(value, int):
                changed = ast.Constant(value + 1)
            case ast.Expr(ast.Call()):
                changed = ast.Constant(None)
        if changed is not None and node.lineno == node.end_lineno:  # type: ignore[attr-defined]
            text = ast.unparse(changed)
            text = f"({text})" if isinstance(changed, ast.BinOp | ast.BoolOp | ast.Compare) else text
            yield node.lineno, node.col_offset, node.end_col_offset, text  # type: ignore[attr-defined]


def applied(source: str, fault: dict[str, Any]) -> str:
    lines = source.split("\n")
    line = lines[fault["line"] - 1].encode()
    lines[fault["line"] - 1] = (line[: fault["first"]] + fault["text"].encode() + line[fault["last"] :]).decode()
    return "\n".join(lines)


def draw(covered: dict[str, Any], tree: Path, number: int, seed: int) -> list[dict[str, Any]]:
    """As many faults in each room, in lines that some test runs."""
    chosen, rng = [], random.Random(seed)
    for room in ROOMS:
        candidates = {
            (path, *fault)
            for path, lines in sorted(covered["lines"].items())
            if path.startswith(f"{room}/") and path.endswith(".py")
            for fault in faults((tree / path).read_text(encoding="utf-8"))
            if lines.get(str(fault[0]))
        }
        chosen += rng.sample(sorted(candidates), min(number // len(ROOMS), len(candidates)))
    return [dict(zip(("path", "line", "first", "last", "text"), fault, strict=True)) for fault in chosen]


def collected(tree: Path, marked: str) -> set[str]:
    """The tests that are so marked."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-n", "0", "-m", marked]
    done = subprocess.run(command, cwd=tree, env=environment(tree), capture_output=True, text=True, check=True)
    return {line for line in done.stdout.splitlines() if "::" in line}


def tests_of(fault: dict[str, Any], covered: dict[str, Any], among: set[str]) -> list[str]:
    """Tests that run the line, the quickest first, as far as MOST_SECONDS go; one if there is any."""
    names = covered["lines"].get(fault["path"], {}).get(str(fault["line"]), [])
    tests = {test for name in names for test in covered["users"].get(name, [name])}
    seconds, chosen = 0.0, list[str]()
    for test in sorted(tests & among & covered["seconds"].keys(), key=lambda test: (covered["seconds"][test], test)):
        seconds += covered["seconds"][test]
        if chosen and seconds > MOST_SECONDS:
            break
        chosen.append(test)
    return chosen


def killed_by(fault: dict[str, Any], tests: list[str], tree: Path) -> str | None:
    """Return the test that fails, "time" if they do not end, or None if all pass."""
    if not tests:
        return None
    place = tree / fault["path"]
    source = place.read_text(encoding="utf-8")
    place.write_text(applied(source, fault), encoding="utf-8")
    try:
        command = pytest("-x", "-n", "0", "-m", "", "--no-header", "--tb", "no", "-rfE", *tests)
        options: dict[str, Any] = {"cwd": tree, "env": environment(tree), "capture_output": True, "text": True}
        done = subprocess.run(command, timeout=4 * MOST_SECONDS, check=False, **options)
    except subprocess.TimeoutExpired:
        return "time"
    finally:
        place.write_text(source, encoding="utf-8")
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return None if done.returncode == 0 else (failed or [f"pytest ended with {done.returncode}"])[0]


def kill(found: list[dict[str, Any]], covered: dict[str, Any], tree: Path, out: Path) -> None:
    """Try each fault; what is done is kept in `out`."""
    done = json.loads(out.read_text()) if out.exists() else []
    among = {"short": collected(tree, "not full and not large"), "full": collected(tree, "full")}
    for fault in found[len(done) :]:
        begun = time.monotonic()
        by: dict[str, str | None] = {}
        for kind, tests in among.items():
            by[kind] = killed_by(fault, tests_of(fault, covered, tests), tree)
            if by[kind] is not None:
                break
        done.append(fault | by | {"seconds": round(time.monotonic() - begun, 1)})
        out.write_text(json.dumps(done, indent=1))
        print(len(done), fault["path"], fault["line"], fault["text"], "->", by, flush=True)
    seen = [sum(one.get(by) is not None for one in done) for by in ("short", "full")]
    print(f"{len(done)} faults: {seen[0]} seen by the short tests, {seen[1]} more by those marked full")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("cover", "draw", "kill"))
    parser.add_argument("files", type=Path, nargs="*")
    parser.add_argument("--tree", type=Path, required=True)
    parser.add_argument("--number", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    tree = args.tree.resolve()
    if args.step == "cover":
        args.out.write_text(json.dumps(cover(tree, args.files)))
        return
    given = [json.loads(path.read_text()) for path in args.files]
    if args.step == "kill":
        kill(given[0], joined(given[1:]), tree, args.out)
    else:
        args.out.write_text(json.dumps(draw(joined(given), tree, args.number, args.seed), indent=1))


if __name__ == "__main__":
    main()
