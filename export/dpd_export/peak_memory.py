"""Peak memory of this process since a chosen moment."""

from contextlib import suppress
from pathlib import Path

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak() -> None:
    """Start a new measurement. Without Linux's /proc this has no effect."""
    with suppress(OSError):
        _RESET.write_text("5")  # 5: reset VmHWM (man 5 proc)


def peak_bytes() -> int:
    """Peak resident memory in bytes; 0 if the system does not report it."""
    with suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
