"""Guidance by prompts and prototypes: on the predicted ẑ0, or as in the DPD paper (arXiv 2601.15829) on z_t."""

from dpd_runtime.sampling.schedule import Array

TINY = 1e-12  # a prototype that is reached has no direction


def classifier_free(conditional: Array, unconditional: Array, guidance_scale: float) -> Array:
    """Classifier-free guidance (Ho & Salimans 2022): unconditional + w · (conditional − unconditional). w = 1: none."""
    return unconditional + guidance_scale * (conditional - unconditional)  # type: ignore[operator, no-any-return]


def towards_prototype(original: Array, prototypes: Array, scale: float) -> Array:
    """Pull ẑ0 towards the prototypes: ẑ0' = ẑ0 + g · (p − ẑ0).

    It is after mode guidance (arXiv 2505.18963), which adds λ σ_t (p − ẑ0) to z_t's mean: a constant weight on ẑ0 is
    much weaker at high noise, and grows where that falls.

    Prototypes with smaller sides are block means (kind `pooled`). They change only the means of blocks:
    ẑ0' = ẑ0 + g · U(p − P(ẑ0)), with P average pooling and U nearest-neighbour upsampling.

    Args:
        original: [B, C, h, w]. prototypes: [B, C, h, w], or [B, C, h/f, w/f] for a whole number f.
        scale: g in 0 … 1.
    """
    if prototypes.shape == original.shape:  # type: ignore[attr-defined]
        return original + scale * (prototypes - original)  # type: ignore[operator, no-any-return]
    batch, channels, height, width = original.shape  # type: ignore[attr-defined]
    rows, columns = prototypes.shape[2:]  # type: ignore[attr-defined]
    shape = (batch, channels, rows, height // rows, columns, width // columns)
    blocks = original.reshape(shape)  # type: ignore[attr-defined]
    means = blocks.mean((3, 5)).reshape(batch, channels, rows, 1, columns, 1)
    wanted = prototypes.reshape(batch, channels, rows, 1, columns, 1)  # type: ignore[attr-defined]
    return (blocks + scale * (wanted - means)).reshape(batch, channels, height, width)  # type: ignore[no-any-return]


def moved(latents: Array, original: Array, prototypes: Array, length: float) -> Array:
    """Move z_t by `length` in the direction from ẑ0 to the prototype: z_t + l · (p − ẑ0) / ‖p − ẑ0‖ (arXiv 2601.15829).

    Args:
        latents: z_t [B, C, h, w]. original, prototypes: as in `towards_prototype`.
        length: l, Euclidean, over a whole latent; s · √(1 − ᾱ_t) in the paper.
    """
    apart = towards_prototype(original, prototypes, 1.0) - original  # type: ignore[operator]
    norms = (apart * apart).sum((1, 2, 3)).reshape(-1, 1, 1, 1) ** 0.5
    return latents + length * apart / (norms + TINY)  # type: ignore[no-any-return]
