"""The Dockerfile of a site, read as Docker would: it was never built here, because there is no Docker.

`airgap/rehearse`, which `.ci/run` starts, runs the same pip command, without a network.
"""

import json
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "examples" / "site" / "Dockerfile"
if not DOCKERFILE.is_file():
    pytest.skip("the examples are not beside the tests", allow_module_level=True)


def instructions() -> list[tuple[str, str]]:
    lines = [line for line in DOCKERFILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    parts = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [(name, rest) for name, rest in parts]


def test_the_image_holds_what_the_wheelhouse_holds_and_runs_as_nobody() -> None:
    found = instructions()
    assert [name for name, _ in found] == ["FROM", "RUN", "ENV", "WORKDIR", "USER", "ENTRYPOINT", "CMD"]
    said = dict(found)
    assert re.fullmatch(r"python:3\.1[1-3]-slim", said["FROM"])
    assert all(int(number) > 0 for number in said["USER"].split(":")), "not root"
    assert json.loads(said["ENTRYPOINT"]) == ["dpd"]
    places = dict(pair.split("=") for pair in shlex.split(said["ENV"]))
    assert places["HOME"] == "/tmp"
    assert places["XDG_CACHE_HOME"].startswith("/tmp/")


def test_the_image_installs_as_the_rehearsal_does() -> None:
    mount, *command = shlex.split(dict(instructions())["RUN"])
    assert mount == "--mount=type=bind,target=/wheelhouse"
    rehearsed = re.search(r"pip install (--no-index[^\n]*)", (ROOT / "airgap" / "wheelhouse.py").read_text())
    assert rehearsed
    wanted = shlex.split(rehearsed[1].replace("wheelhouse", "/wheelhouse"), comments=True)
    wanted = wanted[: wanted.index("/wheelhouse/requirements.txt") + 1]
    assert command[: len(wanted) + 2] == ["pip", "install", *wanted]
    assert set(command[len(wanted) + 2 :]) == {"--no-cache-dir", "--disable-pip-version-check"}
    for option in ("--no-index", "--require-hashes"):
        assert option in (ROOT / "airgap" / "rehearse").read_text()
