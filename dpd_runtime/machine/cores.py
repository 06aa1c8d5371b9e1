"""How many cores and how much memory this process may use: what a container is given counts, not what the host has."""

import os
from collections.abc import Iterator
from pathlib import Path

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

ROOT = Path("/")


def usable_cores(root: Path = ROOT) -> int:
    """The affinity mask's cores, or fewer where a control group has a CPU quota; a part of a core does not count.

    Args:
        root: of the file system in which /proc and /sys are looked for.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [*_second_version(root), *_first_version(root)]
    return max(1, min([cores, *map(int, quotas)]))


def usable_memory(root: Path = ROOT) -> int | None:
    """Bytes of memory in all that this process may use (also by ulimit); None where the system does not say."""
    texts = _settings(root, "", "", "memory.max") + _settings(root, "memory", "memory", "memory.limit_in_bytes")
    limits = [int(text) for text in texts if text.isdigit()]
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            limits.append(int(line.split()[1]) * 1024)
    if resource is not None:
        soft = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
        limits += [limit for limit in soft if limit != resource.RLIM_INFINITY]
    return min(limits, default=None)


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
            if quota.isdigit() and period.isdigit() and int(period):  # a quota of −1 is none
                yield int(quota) / int(period)


def _settings(root: Path, controller: str, mounted: str, name: str) -> list[str]:
    """The file `name` of our control group and of all above it. The path may be the host's: then only the top is there.

    Args:
        controller: "" for version 2.
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
