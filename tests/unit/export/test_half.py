"""Half precision: islands of float32 where they are needed, and an error where float16 is not enough."""

from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import nn

from dpd_export.graphs import HalfPrecision, Islands, Ranges, attention, halve, wants_wide_scores
from dpd_runtime.errors import ParityError

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
IN_HALF = ("Conv", "MatMul", "Gemm")
IN_FLOAT = ("InstanceNormalization", "LayerNormalization", "Softmax", "Sin", "Cos", "ReduceMean")


@pytest.mark.parametrize("mask", ["none", "causal", "boolean", "additive"])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_is_that_of_torch(mask: str, scale: float | None) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 4)
    given = {
        "none": {},
        "causal": {"is_causal": True},
        "boolean": {"attn_mask": torch.rand(5, 5) < 0.7 + torch.eye(5)},
        "additive": {"attn_mask": torch.randn(5, 5)},
    }[mask]
    expected = F.scaled_dot_product_attention(query, key, value, scale=scale, **given)
    for wide in (False, True):
        torch.testing.assert_close(attention(query, key, value, scale=scale, wide_scores=wide, **given), expected)


def test_wide_scores_survive_what_half_precision_does_not() -> None:
    """Scores of ±1e5 exceed 65504; the softmax only needs to know which is the largest."""
    query = torch.full((1, 1, 1, 64), 125.0).half()
    key = torch.stack([torch.full((64,), 100.0), torch.full((64,), -100.0)])[None, None].half()
    value = torch.tensor([[1.0], [2.0]])[None, None].half()
    assert attention(query, key, value, scale=0.125, wide_scores=True).item() == 1.0
    key = key * 8
    assert attention(query, key, value, scale=0.125, wide_scores=True).item() == 1.0
    assert not torch.isfinite((query * 0.125**0.5) @ (key * 0.125**0.5).transpose(-1, -2)).all()


def test_norms_and_means_sum_in_float32() -> None:
    """A squared sum that exceeds float16; as a control, it overflows outside the islands."""
    x = torch.full((1, 4, 32, 32), 300.0).half()
    x[..., ::2] = -300.0
    assert not torch.isfinite((x * x).half()).all()
    with Islands(wide_scores=False):
        normal = F.group_norm(x, 2)
        mean = (x.abs() * 100).mean((2, 3))
    assert normal.dtype == mean.dtype == torch.float16
    torch.testing.assert_close(normal.float(), x.float().sign(), atol=1e-3, rtol=0)
    torch.testing.assert_close(mean.float(), torch.full((1, 4), 3e4), rtol=1e-3, atol=0)


def test_weights_are_halved_in_place_and_norms_are_not() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.BatchNorm2d(4), nn.Linear(4, 4))
    expected = module[0].weight.detach().clone()
    halve(module)
    assert {p.dtype for p in module[1].parameters()} == {torch.float32}
    assert {p.dtype for layer in (0, 2, 3) for p in module[layer].parameters()} == {torch.float16}
    torch.testing.assert_close(module[0].weight.float(), expected, rtol=1e-3, atol=1e-6)
    module[3].float().weight.data[0, 0] = 1e5
    with pytest.raises(ParityError, match=r"weight 3\.weight does not fit .* --precision fp16-weights"):
        halve(module)


def unet(**more: object) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
        **more,
    ).eval()


@torch.no_grad()
def test_a_unet_in_half_precision_is_near_and_its_border_float32() -> None:
    class Plain(nn.Module):
        def __init__(self, unet: nn.Module) -> None:
            super().__init__()
            self.unet = unet

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.unet(*inputs, return_dict=False)[0]
            return out

    module = Plain(unet())
    inputs = (torch.randn(2, 4, 8, 8), torch.tensor(999), torch.randn(2, 7, 16))
    expected = module(*inputs)
    halve(module)
    found = HalfPrecision(module)(*inputs)
    assert found.dtype == torch.float32
    assert 0 < (found - expected).abs().max() / expected.abs().max() < 5e-3


@pytest.mark.parametrize("asked", [True, False])
def test_a_base_may_ask_for_wide_scores(asked: bool) -> None:
    assert wants_wide_scores(unet(upcast_attention=asked)) is asked


def test_ranges_see_sums_and_scores_but_no_masks() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(1, 2, 6, 8) * 3, torch.randn(1, 2, 6, 8) * 4
    with Ranges() as ranges:
        F.scaled_dot_product_attention(query, key, key)
        torch.zeros(3) + torch.finfo(torch.float32).min
        torch.zeros(3) - float("inf")
    exact = float((query @ key.transpose(-1, -2)).abs().max()) * 8**-0.5
    assert exact <= ranges.scores <= 20 * exact
    assert ranges.largest < 100
    ranges.check("here")
    with ranges:
        torch.ones(2, 3) * 3e4 + 1
        F.scaled_dot_product_attention(query * 100, key * 100, key)
    assert ranges.wide_scores
    with pytest.raises(ParityError, match=r"here: activations reach 3e\+04, half precision ends at 65504"):
        ranges.check("here")


@pytest.mark.full
@pytest.mark.parametrize("part", ["unet", "vae_decoder", "text_encoder", "classifier", "latent_classifier"])
def test_graphs_compute_in_half_precision_with_islands(half_bundle: Path, part: str) -> None:
    """Checked by the types that shape inference finds, not by names."""
    model = onnx.load(half_bundle / part / "model.onnx", load_external_data=False)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {t.name: t.data_type for t in inferred.initializer}
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        types[value.name] = value.type.tensor_type.elem_type
    found = {kind: {types[n.input[0]] for n in inferred.node if n.op_type == kind} for kind in (*IN_HALF, *IN_FLOAT)}
    assert all(found[kind] <= {HALF} for kind in IN_HALF)
    assert all(found[kind] <= {FLOAT} for kind in IN_FLOAT)
    assert any(found[kind] for kind in IN_HALF)
    assert {types[value.name] for value in (*inferred.input, *inferred.output)} <= {FLOAT, onnx.TensorProto.INT64}
    wide = [t for t in inferred.initializer if t.data_type == FLOAT and sum(side > 1 for side in t.dims) > 1]
    assert wide == []  # the vectors of norms alone keep float32
