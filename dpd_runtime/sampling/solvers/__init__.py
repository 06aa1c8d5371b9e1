"""Solvers of the diffusion process. Each advances from ẑ0, so guidance on ẑ0 works with all of them.

A solver is a function `steps(schedule, count) -> list[Step]` and a pure function
`advance(latents, original, step, previous_original) -> latents`. Two fields of a step have
consequences for the sampling loop: if `corrector_older` is not 0, `advance` has a fifth argument, the ẑ0 before the
previous one; if `noise` is not 0, the loop adds fresh noise to the result.
"""

from collections.abc import Callable
from typing import Any

from dpd_runtime.sampling.schedule import Schedule
from dpd_runtime.sampling.solvers import ddim, dpm, euler, lcm, tcd, unipc
from dpd_runtime.sampling.solvers.step import Step

Advance = Callable[..., Any]

SOLVERS: dict[str, tuple[Callable[[Schedule, int], list[Step]], Advance]] = {
    "ddim": (ddim.ddim_steps, ddim.ddim_advance),
    "dpm++2m": (dpm.dpm_steps, dpm.dpm_advance),
    "unipc": (unipc.unipc_steps, unipc.unipc_advance),
    "euler": (euler.euler_steps, euler.euler_advance),
    "lcm": (lcm.lcm_steps, lcm.lcm_advance),
    "tcd": (tcd.tcd_steps, tcd.tcd_advance),
}

__all__ = ["SOLVERS", "Advance", "Step"]
