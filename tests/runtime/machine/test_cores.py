"""The limits of a container, from the kernel's files, which are laid out here as in cgroup v1 and v2."""

import os
from pathlib import Path

import pytest

from dpd_runtime.machine.cores import usable_cores, usable_memory

HERE = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
CPU2, QUOTA, PERIOD = "cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us"


def lay(root: Path, entries: dict[str, str]) -> Path:
    for name, content in entries.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content + "\n")
    return root


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)


@pytest.mark.parametrize(
    ("entries", "cores"),
    [
        ({}, 8),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, 8),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "200000 100000"}, 2),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "350000 100000"}, 3),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "50000 100000"}, 1),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "3200000 100000"}, 8),
        # the whole tree in sight: the narrowest group above us counts
        (
            {
                "proc/self/cgroup": "0::/slice/job/step",
                "sys/fs/cgroup/slice/job/cpu.max": "300000 100000",
                "sys/fs/cgroup/slice/job/step/cpu.max": "max 100000",
                "sys/fs/cgroup/other/cpu.max": "100000 100000",
            },
            3,
        ),
        # a container that is told the host's path
        ({"proc/self/cgroup": "0::/docker/0123", "sys/fs/cgroup/cpu.max": "400000 100000"}, 4),
        (
            {
                "proc/self/cgroup": "4:memory:/m\n2:cpu,cpuacct:/docker/0123",
                f"sys/fs/cgroup/cpu/{QUOTA}": "250000",
                f"sys/fs/cgroup/cpu/{PERIOD}": "100000",
            },
            2,
        ),
        (
            {
                "proc/self/cgroup": "2:cpu,cpuacct:/job",
                f"sys/fs/cgroup/cpu,cpuacct/{QUOTA}": "-1",
                f"sys/fs/cgroup/cpu,cpuacct/{PERIOD}": "100000",
                f"sys/fs/cgroup/cpu,cpuacct/job/{QUOTA}": "500000",
                f"sys/fs/cgroup/cpu,cpuacct/job/{PERIOD}": "100000",
            },
            5,
        ),
        ({"proc/self/cgroup": "garbage", "sys/fs/cgroup/cpu.max": "garbage"}, 8),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "100000 0"}, 8),
    ],
)
def test_cores(entries: dict[str, str], cores: int, tmp_path: Path) -> None:
    assert usable_cores(lay(tmp_path, entries)) == cores


def test_the_affinity_mask_counts_where_it_is_narrower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 5}, raising=False)
    assert usable_cores(lay(tmp_path, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "400000 100000"})) == 2


def test_memory(tmp_path: Path) -> None:
    assert usable_memory(tmp_path) is None
    assert usable_memory(lay(tmp_path, {"proc/meminfo": "MemTotal:       1000 kB\nMemFree: 1 kB"})) == 1_024_000
    assert usable_memory(lay(tmp_path, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": "max"})) == 1_024_000
    assert usable_memory(lay(tmp_path, {"sys/fs/cgroup/memory.max": "500000"})) == 500_000


def test_here() -> None:
    assert 1 <= usable_cores() <= max(HERE, 8)
