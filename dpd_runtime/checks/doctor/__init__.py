"""What works on this machine, and why the rest does not. Nothing here raises: what goes wrong is the finding."""

from dpd_runtime.checks.doctor.machine import Machine, this_machine
from dpd_runtime.checks.doctor.providers import ProviderFinding, examine_providers
from dpd_runtime.machine.driver import Driver, nvidia_driver

__all__ = ["Driver", "Machine", "ProviderFinding", "examine_providers", "nvidia_driver", "this_machine"]
