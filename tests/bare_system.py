"""A pytest plugin that hides from `dpd_runtime` what Linux has and Windows or macOS lack.

    pytest -p tests.bare_system tests/unit/runtime

It shows that the runtime asks for none of it without need. It is no Windows: paths, locks and processes stay those of
Linux, and the tests themselves see everything. Tests of what such a system cannot do, such as refusing links and other
users' files at once, fail.
"""

import builtins
import ctypes
import os
import signal
from collections.abc import Mapping
from types import ModuleType
from typing import Any

MODULES = frozenset({"fcntl", "resource", "pwd", "grp", "termios"})
HIDDEN: Mapping[ModuleType, frozenset[str]] = {
    os: frozenset(
        ("geteuid", "getuid", "getgid", "getloadavg", "sched_getaffinity", "O_NOFOLLOW", "O_NONBLOCK", "O_DIRECTORY")
    )
    | {"fork", "killpg", "setsid", "posix_fadvise", "statvfs", "chown", "mkfifo"},
    signal: frozenset({"SIGKILL", "SIGHUP", "SIGALRM", "setitimer", "pthread_sigmask"}),
}


class _Bare(ModuleType):
    """A module without some of its names."""

    def __init__(self, known: ModuleType, hidden: frozenset[str]) -> None:
        super().__init__(known.__name__)
        self.__dict__["known"], self.__dict__["hidden"] = known, hidden

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__["hidden"]:
            raise AttributeError(f"{self.__name__}.{name} is hidden")
        return getattr(self.__dict__["known"], name)


def hide() -> None:
    """Hide them from modules of dpd_runtime that are imported later, and CUDA's driver from everybody."""
    bare = {known.__name__: _Bare(known, hidden) for known, hidden in HIDDEN.items()}
    known_import, known_library = builtins.__import__, ctypes.CDLL

    def bare_import(name: str, names: Any = None, *args: Any, **options: Any) -> Any:
        if names is not None and str(names.get("__name__", "")).startswith("dpd_runtime"):
            if name in MODULES:
                raise ImportError(f"{name} is hidden")
            if name in bare:
                return bare[name]
        return known_import(name, names, *args, **options)

    def without_cuda(name: Any, *args: Any, **options: Any) -> Any:
        if "libcuda" in str(name):
            raise OSError(f"{name} is hidden")
        return known_library(name, *args, **options)

    builtins.__import__ = bare_import
    ctypes.CDLL = without_cuda  # type: ignore[assignment,misc]


def pytest_configure() -> None:
    hide()
