"""Sampling steps as rows of numbers for `step/model.onnx`: one graph serves all steps of all solvers.

Everything between two UNet calls is linear in the tensors, with coefficients that are known in advance:

    output   = unconditional + w (conditional − unconditional)
    original = from_latents · latents + from_output · output
    original = original + g · U(prototypes − P(original))
    next     = k_z latents + k_o original + k_p previous + k_q older + k_n noise

P and U are pooling and upsampling for prototypes of kind `pooled`, else the identity.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import cast

import numpy as np

from dpd_runtime.annotations import Float32
from dpd_runtime.sampling.sampler import BlockGuidance
from dpd_runtime.sampling.schedule import PredictionType, predicted_original
from dpd_runtime.sampling.solvers import Advance, Step

GRAPH = "step/model.onnx"
TENSORS = ("latents", "conditional", "unconditional", "prototypes", "previous", "older", "noise")
"""Inputs [B, C, h, w]. `previous` and `older` are the last two results `original`. For kind `pooled`, `prototypes` is
[B, C, h/f, w/f]. An input with coefficient 0 may be any finite tensor. In an unguided step `conditional` and
`unconditional` are the same tensor.
"""
COEFFICIENTS = "coefficients"
OUTPUTS = ("next_latents", "original")


@dataclass(frozen=True)
class Coefficients:
    """One row of the table, in the order in which the graph reads it."""

    guidance_scale: float
    from_latents: float
    from_output: float
    prototype_scale: float
    keep: float
    add: float
    add_previous: float
    add_older: float
    noise: float


def coefficients(
    step: Step, advance: Advance, prediction_type: PredictionType, guidance_scale: float, prototype_scale: float
) -> Coefficients:
    """The coefficients of one step. `advance` is linear, so its values at the unit vectors are its coefficients."""

    def response(*units: float) -> float:
        """(latents, original, previous, older) → next."""
        latents, original, *memory = units
        known = memory if step.corrector_older else memory[:1]
        return cast(float, advance(latents, original, step, *known))

    def original(latents: float, output: float) -> float:
        return predicted_original(latents, output, prediction_type, step.alpha, step.sigma)

    return Coefficients(
        guidance_scale=guidance_scale,
        from_latents=original(1.0, 0.0),
        from_output=original(0.0, 1.0),
        prototype_scale=prototype_scale,
        keep=response(1.0, 0.0, 0.0, 0.0),
        add=response(0.0, 1.0, 0.0, 0.0),
        add_previous=response(0.0, 0.0, 1.0, 0.0),
        add_older=response(0.0, 0.0, 0.0, 1.0),
        noise=step.noise,
    )


def step_table(
    steps: Sequence[Step],
    advance: Advance,
    prediction_type: PredictionType,
    guidance: BlockGuidance,
    *,
    prototypes: bool,
) -> Float32:
    """The coefficients of all steps, [steps, 9].

    Args:
        prototypes: whether the class has prototypes.
    """
    rows = []
    for number, step in enumerate(steps):
        scale = guidance.guidance_scale if guidance.guides(number, len(steps)) else 1.0
        pull = guidance.prototype_scale if prototypes and guidance.pulls(number, len(steps)) else 0.0
        rows.append(astuple(coefficients(step, advance, prediction_type, scale, pull)))
    return np.array(rows, np.float32)
