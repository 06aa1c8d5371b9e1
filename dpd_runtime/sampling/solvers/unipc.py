"""UniPC of order 2 (Zhao et al. 2023, algorithms 1 and 2) with B₂(h) = e^h − 1 ("bh2") in data prediction.

Its predictor UniP-2 is the update of DPM-Solver++(2M). Its corrector UniC-2 uses ẑ0 at the predicted latents to correct
them, without a further evaluation. Both are linear in the same terms. Therefore the corrected latents are the predicted
ones plus a weighted sum of the last three ẑ0, and no earlier latents are needed.
"""

import math
from dataclasses import replace
from itertools import pairwise

from dpd_runtime.sampling.schedule import Array, Schedule
from dpd_runtime.sampling.solvers.dpm import dpm_advance, dpm_steps
from dpd_runtime.sampling.solvers.step import Step, without_pure_noise


def _corrector(before: Step, step: Step) -> tuple[float, float]:
    """Weights of (ẑ0 − previous ẑ0) and (previous ẑ0 − the one before it).

    With h the step in λ, B = 1 − e^{−h} and r = (λ_{i−2} − λ_{i−1}) / h, UniC-2 solves ρ0 + ρ1 = b1, r ρ0 + ρ1 = b2.
    The predictor has already used −1/2 for ρ0, and 1 / r = −2 · its correction.
    """
    h = math.log(step.alpha / step.sigma) - math.log(before.alpha / before.sigma)
    shrink = -math.expm1(-h)  # B
    if not before.correction:  # order 1
        return 0.5 * step.alpha * shrink, 0.0
    ratio = -0.5 / before.correction  # r
    first = 1.0 / shrink - 1.0 / h  # b1
    second = 1.0 / shrink - 2.0 * first / h  # b2
    rho = (first - second) / (1.0 - ratio)  # ρ0
    gain = step.alpha * shrink
    return gain * (first - rho), gain * 2.0 * before.correction * (rho - 0.5)


def unipc_steps(schedule: Schedule, count: int) -> list[Step]:
    """The steps of DPM-Solver++(2M). Each but the first also corrects the latents that it starts from."""
    steps = dpm_steps(without_pure_noise(schedule), count)
    corrected = steps[:1]
    for before, step in pairwise(steps):
        corrector, older = _corrector(before, step)
        corrected.append(replace(step, corrector=corrector, corrector_older=older))
    return corrected


def unipc_advance(
    latents: Array,
    original: Array,
    step: Step,
    previous_original: Array | None,
    older_original: Array | None = None,
) -> Array:
    """Correct the latents, then predict the next ones (see `_corrector`).

    Args:
        older_original: the ẑ0 before the previous one, from the third step on.
    """
    if step.corrector:
        latents = latents + step.corrector * (original - previous_original)  # type: ignore[operator]
    if step.corrector_older:
        latents = latents + step.corrector_older * (previous_original - older_original)  # type: ignore[operator]
    return dpm_advance(latents, original, step, previous_original)
