"""The properties of this machine."""

import os
import platform
from dataclasses import dataclass

from dpd_runtime.machine.cores import usable_cores, usable_memory
from dpd_runtime.machine.versions import cpu_flags, processor, versions
from dpd_runtime.telemetry import describe_telemetry


@dataclass(frozen=True)
class Machine:
    """The properties of a machine.

    Args:
        cores: of the host. usable_cores: within affinity and quota; `dpd generate` uses these.
        memory: bytes that this process may use; None if unknown.
        versions: of Python, dpd and the packages that `dpd generate` uses.
        settings: environment variables that affect threads or devices.
        telemetry: whether the libraries' telemetry is off, in words.
    """

    system: str
    processor: str
    cpu_flags: tuple[str, ...]
    cores: int
    usable_cores: int
    memory: int | None
    versions: dict[str, str]
    settings: dict[str, str]
    telemetry: str


SETTINGS = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "LD_LIBRARY_PATH")


def this_machine() -> Machine:
    return Machine(
        system=platform.platform(),
        processor=processor(),
        cpu_flags=tuple(cpu_flags()),
        cores=os.cpu_count() or 1,
        usable_cores=usable_cores(),
        memory=usable_memory(),
        versions=versions(),
        settings={name: os.environ[name] for name in SETTINGS if name in os.environ},
        telemetry=describe_telemetry(),
    )
