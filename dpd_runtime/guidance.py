"""Guidance on the predicted clean latents ẑ0: invariant to solver and prediction type (METHOD §1)."""

from dpd_runtime.schedule import Array


def classifier_free(conditional: Array, unconditional: Array, guidance_scale: float) -> Array:
    """Ho & Salimans 2022: unconditional + w · (conditional − unconditional); w = 1 is no guidance."""
    return unconditional + guidance_scale * (conditional - unconditional)  # type: ignore[operator, no-any-return]


def towards_prototype(original: Array, prototypes: Array, scale: float) -> Array:
    """ẑ0' = ẑ0 + g · (p − ẑ0) (mode guidance, 2505.18963, written on ẑ0).

    Args:
        original, prototypes: [B, C, h, w].
        scale: g in 0 … 1.
    """
    return original + scale * (prototypes - original)  # type: ignore[operator, no-any-return]
