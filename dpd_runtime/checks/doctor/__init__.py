"""Which providers work on this machine, and why others do not. Errors become findings; nothing here raises."""

from dpd_runtime.checks.doctor.machine import Machine, this_machine
from dpd_runtime.checks.doctor.providers import ProviderFinding, examine_providers
from dpd_runtime.machine.driver import Driver, nvidia_driver

__all__ = ["Driver", "Machine", "ProviderFinding", "examine_providers", "nvidia_driver", "this_machine"]
