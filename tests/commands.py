"""`dpd` for tests: each command in a fork of a process that has imported the command line, so that it starts at once.

A fork has its own memory, environment, folder and exit code, as a process that a user starts. What the command line
imports only when it runs is there already if it is light; for commands that need PyTorch all of it is, in a second
process. Tests of imports, signals and process groups start a process of their own.
"""

import atexit
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

ROOT = str(Path(__file__).parents[1])
SECONDS = 1200  # a command that runs longer hangs; `dpd demo` takes ten minutes on two busy cores
COMMAND = "dpd_cli.main:main"
HEAVY = ("torch", "diffusers", "transformers", "onnx", "sklearn", "scipy", "matplotlib")
WITH_PYTORCH = (
    "distill",
    "private",
    "train",
    "export",
    "audit",
    "evaluate",
    "select",
    "pretrain",
    "demo",
    "fit",
    "swimdiff",
)
LIGHT = (
    "dpd_runtime.dataset",
    "dpd_runtime.generation",
    "dpd_runtime.classifier",
    "dpd_train.scenes",
)
FOR_PYTORCH = ("dpd_train.train", "dpd_eval.audit", "dpd_eval.evaluation", "dpd_export.bundle")


class Done(subprocess.CompletedProcess[str]):
    """What a command said. cpu: seconds; heavy: packages of HEAVY that it imported."""

    cpu: float
    heavy: tuple[str, ...]


def dpd(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    *,
    command: str = COMMAND,
    with_pytorch: bool | None = None,
) -> Done:
    """Run `dpd ARGUMENTS` in `folder`; return its code, which is negative after a signal, and what it printed.

    Args:
        command: module:function to run in place of dpd's own.
        with_pytorch: whether PyTorch is imported before; None: for WITH_PYTORCH where it is installed.
    """
    if with_pytorch is None:
        with_pytorch = any(word in WITH_PYTORCH for word in arguments[:1])
    with tempfile.TemporaryDirectory() as work:
        request = {"command": command, "arguments": list(arguments), "folder": str(folder), "work": work}
        request["test"] = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]
        server = _server(with_pytorch and find_spec("torch") is not None, environment["PYTHONPATH"])
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(request | {"environment": dict(environment)}) + "\n")
        server.stdin.flush()
        code, cpu, heavy = json.loads(server.stdout.readline())
        out, err = ((Path(work) / name).read_text(encoding="utf-8") for name in ("out", "err"))
    done = Done(["dpd", *arguments], code, out, err)
    done.cpu, done.heavy = cpu, tuple(heavy)
    return done


@cache
def _server(with_pytorch: bool, paths: str) -> "subprocess.Popen[str]":
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")  # none to fork with
    environment = os.environ | threads | {"PYTHONPATH": os.pathsep.join([paths, ROOT])}
    first = FOR_PYTORCH if with_pytorch else ()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.commands", *first],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(process.kill)
    return process


def _serve(first: list[str]) -> None:
    """Answer each line of stdin, a command, with its exit code, CPU seconds and imported packages."""
    options = importlib.import_module("dpd_cli.options")
    importlib.import_module("dpd_cli.main")
    for name in LIGHT:
        with suppress(ImportError):  # of what a site has not
            importlib.import_module(name)
    if first:
        options.require_torch()  # as a command does before it imports them: then they do not talk
    for name in first:
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _be_the_command(request)
        _, status, usage = os.wait4(child, 0)
        heavy = Path(request["work"]) / "heavy"
        found = heavy.read_text().split() if heavy.exists() else []
        answer = (os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, found)
        print(json.dumps(answer), flush=True)


def _be_the_command(request: dict[str, Any]) -> NoReturn:
    place = Path(request["work"])
    for number, name, flags in ((0, os.devnull, os.O_RDONLY), (1, "out", os.O_WRONLY), (2, "err", os.O_WRONLY)):
        os.dup2(os.open(place / name, flags | os.O_CREAT), number)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["dpd", *request["arguments"]]
    if "coverage" in sys.modules and (covered := sys.modules["coverage"].Coverage.current()) is not None:
        covered.switch_context(request["test"])
    signal.alarm(SECONDS)
    code: object = 1
    try:
        module, _, name = request["command"].partition(":")
        getattr(importlib.import_module(module), name)()
        code = 0
    except SystemExit as leaving:
        code = leaving.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    sys.stdout.flush()
    sys.stderr.flush()
    (place / "heavy").write_text(" ".join(name for name in HEAVY if name in sys.modules))
    os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    _serve(sys.argv[1:])
