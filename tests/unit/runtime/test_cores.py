"""The limits of a container, from the kernel's files, which are laid out here as in cgroup v1 and v2."""

import os
from pathlib import Path

import pytest

from dpd_runtime import machine as module
from dpd_runtime.machine import idle_cores, memory_for_graphs, usable_cores, usable_memory

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


def stat_of(work: int, nice: int, idle: int) -> str:
    """/proc/stat of eight cores of this process, of which the first two compute, and of one that is not its own."""
    busy, free = f"{work} {nice} 0 {idle} 0 0 0 0 0 0", f"0 0 0 {work + nice + idle} 0 0 0 0 0 0"
    lines = [f"cpu{core} {busy if core in (0, 1, 8) else free}" for core in range(9)]
    return "\n".join(["cpu 1 1 1 1 1 1 1 1 1 1", *lines, "intr 5"])


@pytest.mark.parametrize(
    ("work", "nice", "idle", "cores"),
    [(50, 0, 0, 6), (0, 50, 0, 8), (0, 0, 50, 8), (15, 0, 35, 7), (10, 0, 40, 8), (0, 0, 0, 8)],
)
def test_idle_cores_are_those_where_nothing_else_works_now(
    work: int, nice: int, idle: int, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(tmp_path, {"proc/stat": stat_of(100_000, 5, 1000)})
    later = {"proc/stat": stat_of(100_000 + work, 5 + nice, 1000 + idle)}
    monkeypatch.setattr(module.time, "sleep", lambda seconds: lay(tmp_path, later))
    assert idle_cores(tmp_path) == cores


def test_where_the_system_does_not_tell_all_cores_are_idle(tmp_path: Path) -> None:
    assert idle_cores(tmp_path, seconds=0) == 8
    assert idle_cores(lay(tmp_path, {"proc/stat": "cpu0 1 2\ncpux 1 2 3 4 5 6 7 8\n\ngarbage"}), seconds=0) == 8


def test_memory(tmp_path: Path) -> None:
    assert usable_memory(tmp_path) is None
    assert usable_memory(lay(tmp_path, {"proc/meminfo": "MemTotal:       1000 kB\nMemFree: 1 kB"})) == 1_024_000
    assert usable_memory(lay(tmp_path, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": "max"})) == 1_024_000
    assert usable_memory(lay(tmp_path, {"sys/fs/cgroup/memory.max": "500000"})) == 500_000


@pytest.mark.parametrize(
    ("meminfo", "wanted"),
    [
        ("MemTotal: 1000 kB", 921_600),  # nine tenths
        ("MemTotal: 1000 kB\nMemAvailable: 950 kB\nSwapFree: 0 kB", 921_600),
        ("MemTotal: 1000 kB\nMemAvailable: 300 kB\nSwapFree: 100 kB", 409_600),
        ("MemTotal: 1000 kB\nMemAvailable: 300 kB", 307_200),
        ("MemTotal: lots", None),
    ],
)
def test_graphs_may_take_what_other_programs_leave(tmp_path: Path, meminfo: str, wanted: int | None) -> None:
    assert memory_for_graphs(lay(tmp_path, {"proc/meminfo": meminfo})) == wanted


def test_here() -> None:
    assert 1 <= usable_cores() <= max(HERE, 8)
