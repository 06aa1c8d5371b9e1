"""The most memory that this process has held since a moment of our choice."""

from contextlib import suppress
from pathlib import Path

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak() -> None:
    """Forget the peak so far; without Linux's /proc the peak is that of the whole process."""
    with suppress(OSError):
        _RESET.write_text("5")  # 5: reset VmHWM (man 5 proc)


def peak_bytes() -> int:
    """Resident memory at its highest, in bytes; 0 where the system does not tell."""
    with suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
