"""Solvers of the probability-flow ODE. Each works from ẑ0, so that guidance on ẑ0 needs to know no solver.

A solver is a function `steps(schedule, count) -> list[Step]` and a pure function
`advance(latents, original, step, previous_original) -> latents`.
"""

from collections.abc import Callable
from typing import Any

from dpd_runtime.schedule import Schedule
from dpd_runtime.solvers import ddim, dpm
from dpd_runtime.solvers.step import Step

Advance = Callable[[Any, Any, Step, Any], Any]

SOLVERS: dict[str, tuple[Callable[[Schedule, int], list[Step]], Advance]] = {
    "ddim": (ddim.ddim_steps, ddim.ddim_advance),
    "dpm++2m": (dpm.dpm_steps, dpm.dpm_advance),
}

__all__ = ["SOLVERS", "Advance", "Step"]
