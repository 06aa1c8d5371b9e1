"""True half precision: weights and activations in float16, with islands of float32 where float16 is not enough.

Islands are norms, softmax, means over an image, the sinusoids of the timestep (diffusers computes these in float32
itself), and attention scores where the base needs it. Inputs and outputs stay float32, because solver, guidance and
images use it and optimum's pipelines expect one type for all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import nn
from torch.overrides import TorchFunctionMode

from dpd_runtime.errors import ParityError

HALF_MAX = 65504.0
HEADROOM = 4.0
"""Activations are safe if they stay this factor below float16's largest value: other prompts may reach further."""
MASKED = 1e30  # larger values stand for −∞ in a mask and are not counted
NORMS = (nn.GroupNorm, nn.LayerNorm)
ISLANDS: frozenset[Callable[..., Any]] = frozenset(
    (F.group_norm, F.layer_norm, F.softmax, torch.softmax, torch.Tensor.softmax, torch.mean, torch.Tensor.mean)
)


def _float(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) and value.dtype == torch.float16 else value


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    wide_scores: bool = False,
) -> torch.Tensor:
    """`scaled_dot_product_attention` with the softmax in float32; products stay in the type of the inputs.

    Query and key are scaled before the product, so that no intermediate score is larger than the softmax's input.

    Args:
        wide_scores: compute the product of query and key in float32 too.
    """
    if dropout_p or enable_gqa:
        raise NotImplementedError("attention with dropout or grouped queries is not exported in half precision")
    root = float(query.shape[-1] ** -0.5 if scale is None else scale) ** 0.5
    if wide_scores:
        query, key = query.float(), key.float()
    scores = ((query * root) @ (key * root).transpose(-1, -2)).float()
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, float("-inf"))
    elif attn_mask is not None:
        scores = scores + attn_mask.float()
    return torch.softmax(scores, -1).to(value.dtype) @ value


class Islands(TorchFunctionMode):
    """Run the functions of ISLANDS in float32 and return float16. Tracing records the casts."""

    def __init__(self, wide_scores: bool) -> None:
        super().__init__()
        self.wide_scores = wide_scores

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        half = bool(args) and isinstance(args[0], torch.Tensor) and args[0].dtype == torch.float16
        if half and func is F.scaled_dot_product_attention:
            return attention(*args, **given, wide_scores=self.wide_scores)
        if half and func in ISLANDS:
            out = func(*map(_float, args), **{name: _float(value) for name, value in given.items()})
            return out.to(torch.float16) if out.dtype == torch.float32 else out
        return func(*args, **given)


class HalfPrecision(nn.Module):
    """A module in half precision between float32 inputs and outputs."""

    def __init__(self, module: nn.Module, wide_scores: bool = False) -> None:
        super().__init__()
        self.module, self.wide_scores = module, wide_scores

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        narrow = [value.half() if value.is_floating_point() else value for value in inputs]
        with Islands(self.wide_scores):
            out: torch.Tensor = self.module(*narrow)
        return out.float()


@torch.no_grad()
def halve(module: nn.Module) -> None:
    """Convert weights to float16 in place, one at a time to save memory. Norms keep float32.

    Raises:
        ParityError: a weight exceeds float16.
    """
    kept = {id(p) for norm in module.modules() if isinstance(norm, NORMS) for p in norm.parameters()}
    tensors = [(name, p) for name, p in [*module.named_parameters(), *module.named_buffers()] if id(p) not in kept]
    for name, tensor in tensors:
        if not tensor.is_floating_point():
            continue
        half = tensor.data.half()
        if not torch.isfinite(half).all():
            raise ParityError(f"weight {name} does not fit into half precision; use --precision fp16-weights or fp32")
        tensor.data = half


def wants_wide_scores(module: nn.Module) -> bool:
    """Whether the base's config says that attention scores overflow in half precision (SD-2.1 at 768 pixels)."""
    return any(isinstance(part, Attention) and bool(part.upcast_attention) for part in module.modules())


class Ranges(TorchFunctionMode):
    """Record the largest values of a float32 module while it runs.

    Attributes:
        largest: largest |value| that any function returned, without infinities and mask values.
        scores: upper bound of all attention scores, max ‖q‖ · max ‖k‖ · scale (Cauchy–Schwarz), since the scores
            themselves are not visible.
    """

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.scores = 0.0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        out = func(*args, **given)
        if func is F.scaled_dot_product_attention:
            self.scores = max(self.scores, _score_bound(*args[:2], **given))
        if isinstance(out, torch.Tensor) and out.is_floating_point() and out.numel():
            largest = float(torch.linalg.vector_norm(out.detach(), float("inf")))
            if self.largest < largest < MASKED:
                self.largest = largest
        return out

    @property
    def wide_scores(self) -> bool:
        """Whether attention scores may exceed half precision."""
        return not self.scores * HEADROOM <= HALF_MAX

    def check(self, path: str) -> None:
        """Check that half precision holds the activations.

        Raises:
            ParityError: it may not.
        """
        if not self.largest * HEADROOM <= HALF_MAX:
            raise ParityError(
                f"{path}: activations reach {self.largest:.3g}, half precision ends at {HALF_MAX:.0f}; "
                "use --precision fp16-weights or fp32"
            )


def _score_bound(query: torch.Tensor, key: torch.Tensor, scale: float | None = None, **_: object) -> float:
    lengths = [float(value.detach().norm(dim=-1).max()) for value in (query, key)]
    return lengths[0] * lengths[1] * float(query.shape[-1] ** -0.5 if scale is None else scale)
