"""True half precision: weights and activations float16, islands of float32 where float16 would lose or overflow.

Islands: the sinusoids of the timestep (diffusers computes them so by itself), norms, softmax, means over an image, and
the scores of attention where the base asks for it. Inputs and outputs stay float32: solver, guidance and images work in
it, and every part has one type at its border, as optimum's pipelines want.
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
"""Activations that stay this factor below float16's largest value are called safe: other prompts reach further."""
MASKED = 1e30  # beyond it is a mask's −∞ written as a number, not a sum
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

    Both factors are scaled before they meet, so that no score is larger than the one which the softmax needs.

    Args:
        wide_scores: multiply query and key in float32 too.
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
    """Functions of ISLANDS see float32 and give float16 back. Tracing records the casts."""

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
    """Weights to float16, in place, one after the other: a large model is never there twice. Norms keep float32.

    Raises:
        ParityError: a weight that float16 cannot hold.
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
    """Whether the base's config says that its attention scores overflow in half precision (SD-2.1 at 768 pixels)."""
    return any(isinstance(part, Attention) and bool(part.upcast_attention) for part in module.modules())


class Ranges(TorchFunctionMode):
    """What half precision would have to hold, watched while a float32 module runs.

    Attributes:
        largest: |value| of any function's result; what is not finite, or a mask's number, does not count.
        scores: bound of any attention score, max ‖q‖ · max ‖k‖ · scale (Cauchy–Schwarz): those are never seen.
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
        """Whether attention scores might leave half precision."""
        return not self.scores * HEADROOM <= HALF_MAX

    def check(self, path: str) -> None:
        """Raises:
        ParityError: activations which half precision may not hold.
        """
        if not self.largest * HEADROOM <= HALF_MAX:
            raise ParityError(
                f"{path}: activations reach {self.largest:.3g}, half precision ends at {HALF_MAX:.0f}; "
                "use --precision fp16-weights or fp32"
            )


def _score_bound(query: torch.Tensor, key: torch.Tensor, scale: float | None = None, **_: object) -> float:
    lengths = [float(value.detach().norm(dim=-1).max()) for value in (query, key)]
    return lengths[0] * lengths[1] * float(query.shape[-1] ** -0.5 if scale is None else scale)
