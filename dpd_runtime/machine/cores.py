"""The cores and the memory that this process may use. The limits of a container count, not the host's size."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

ROOT = Path("/")
GRAPHS_SHARE = 0.9
"""Of the memory that this process may use: what graphs may take."""
LOOKED = 0.5
"""Seconds in which `idle_cores` looks at the other programs."""


def usable_cores(root: Path = ROOT) -> int:
    """The number of cores in the affinity mask, or fewer if a control group has a CPU quota (rounded down).

    Args:
        root: folder that contains /proc and /sys.
    """
    mine = _affinity()
    cores = os.cpu_count() or 1 if mine is None else len(mine)
    quotas = [*_second_version(root), *_first_version(root)]
    return max(1, min([cores, *map(int, quotas)]))


def idle_cores(root: Path = ROOT, seconds: float = LOOKED) -> int:
    """Cores that this process may use and other programs do not, at least one; all where the system does not tell.

    What counts is the work of these `seconds`, in which this thread sleeps. The load average would still count programs
    that have ended. Programs of lower priority (nice) do not count, as they give way.
    """
    before = _ticks(root)
    time.sleep(seconds)
    after = _ticks(root)
    busy = 0.0
    for core in set(before) & set(after):
        work, all_ticks = (late - early for late, early in zip(after[core], before[core], strict=True))
        busy += work / max(1, all_ticks)
    return max(1, usable_cores(root) - round(busy))


def _ticks(root: Path) -> dict[int, tuple[int, int]]:
    """Ticks of work, and all ticks, of each core that this process may use, since the start of the system (proc(5))."""
    mine, found = _affinity(), {}
    for line in _read(root / "proc/stat").splitlines():
        match = re.match(r"cpu(\d+) " + " ".join([r"(\d+)"] * 8), line)
        if match is not None and (mine is None or int(match[1]) in mine):
            core, user, nice, system, idle, wait, hard, soft, stolen = map(int, match.groups())
            work = user + system + hard + soft + stolen
            found[core] = work, work + nice + idle + wait
    return found


def _affinity() -> set[int] | None:
    """The cores of the affinity mask; None where the system has none."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None


def usable_memory(root: Path = ROOT) -> int | None:
    """Bytes of memory that this process may use, with the limits of ulimit; None if unknown."""
    texts = _settings(root, "", "", "memory.max") + _settings(root, "memory", "memory", "memory.limit_in_bytes")
    limits = [int(text) for text in texts if text.isdigit()]
    limits += [size for name, size in _memory_sizes(root).items() if name == "MemTotal"]
    if resource is not None:
        soft = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
        limits += [limit for limit in soft if limit != resource.RLIM_INFINITY]
    return min(limits, default=None)


def memory_for_graphs(root: Path = ROOT) -> int | None:
    """Bytes of memory that graphs may take: a share of `usable_memory`, less where other programs have it.

    Without that, a large model beside other programs would be ended by the system, or end one of them. None if unknown.
    """
    memory, sizes = usable_memory(root), _memory_sizes(root)
    if memory is None:
        return None
    free = sizes["MemAvailable"] + sizes.get("SwapFree", 0) if "MemAvailable" in sizes else memory
    return min(int(GRAPHS_SHARE * memory), free)


def _memory_sizes(root: Path) -> dict[str, int]:
    """Bytes by name, as /proc/meminfo has them (proc(5))."""
    lines = [re.match(r"(\w+): +(\d+) kB", line) for line in _read(root / "proc/meminfo").splitlines()]
    return {match[1]: int(match[2]) * 1024 for match in lines if match}


def _second_version(root: Path) -> Iterator[float]:
    for text in _settings(root, "", "", "cpu.max"):
        quota, _, period = text.partition(" ")
        if quota.isdigit() and period.isdigit() and int(period):
            yield int(quota) / int(period)


def _first_version(root: Path) -> Iterator[float]:
    for folder in ("cpu", "cpu,cpuacct"):
        quotas = _settings(root, "cpu", folder, "cpu.cfs_quota_us")
        periods = _settings(root, "cpu", folder, "cpu.cfs_period_us")
        for quota, period in zip(quotas, periods, strict=False):
            if quota.isdigit() and period.isdigit() and int(period):  # −1 means no quota
                yield int(quota) / int(period)


def _settings(root: Path, controller: str, mounted: str, name: str) -> list[str]:
    """The content of the file `name` in our control group and in all groups above it.

    In a container the path of the group may be the host's; then only the top group can be read.

    Args:
        controller: "" for cgroup version 2.
    """
    group = ""
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, names, path = (*line.split(":", 2), "", "")[:3]
        if controller in names.split(",") if controller else number == "0":
            group = path.strip("/")
    top = root / "sys/fs/cgroup" / mounted
    folders = [top, *(top.joinpath(*group.split("/")[: depth + 1]) for depth in range(len(group.split("/"))))]
    return [text for folder in dict.fromkeys(folders) if (text := _read(folder / name).strip())]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
