"""Pruning: exact if the removed filters are unused, counted by PyTorch, ranked as described, and smaller."""

import copy

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from dpd_export import ExportOptions
from dpd_neighbours.pruning.filters import FilterBlock, keep, lowest, multiply_adds, read_blocks, residual_blocks
from dpd_neighbours.pruning.methods import magnitude, pic_pq
from dpd_neighbours.pruning.pic_pq import importance, learn_springs, output_error, same_share
from dpd_neighbours.pruning.prune import check_size
from dpd_neighbours.pruning.recovery import recover
from dpd_runtime.errors import InputError

WIDTH, GROUPS = 16, 4


@pytest.fixture
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(WIDTH, 2 * WIDTH),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=GROUPS,
    ).eval()


def a_call(rows: int = 3) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(rows, 4, 8, 8, generator=generator),
        torch.tensor(300),
        torch.randn(rows, 5, 8, generator=generator),
    )


def everything(blocks: list[FilterBlock]) -> dict[str, torch.Tensor]:
    return {block.name: block.units.flatten().sort().values for block in blocks}


def test_a_unit_has_as_many_filters_of_each_group_and_units_are_all_filters(unet: UNet2DConditionModel) -> None:
    for block in read_blocks(unet, a_call()):
        width = residual_blocks(unet)[block.name].conv1.out_channels
        assert block.units.flatten().sort().values.tolist() == list(range(width))
        for unit in block.units:
            assert np.bincount(unit.numpy() // (width // GROUPS)).tolist() == [len(unit) // GROUPS] * GROUPS
        assert (block.norms.diff() >= 0).all(), "within each group the smallest norms come first"


def test_unused_filters_are_taken_out_without_a_trace() -> None:
    """Closed form: groups consist of pairs of equal filters, so mean and variance stay; one of each pair is unused."""
    torch.manual_seed(0)
    block = ResnetBlock2D(in_channels=8, out_channels=8, temb_channels=6, groups=2, eps=1e-5).eval()
    with torch.no_grad():
        for parameter in (block.conv1.weight, block.conv1.bias, block.time_emb_proj.weight, block.time_emb_proj.bias):
            parameter[1::2] = parameter[0::2]
        block.norm2.weight.uniform_(0.5, 1.5)
        block.norm2.bias.uniform_(-1, 1)
        block.conv2.weight[:, 1::2] = 0
    whole, small = torch.nn.Sequential(block), torch.nn.Sequential(copy.deepcopy(block))
    keep(small, {"0": torch.arange(0, 8, 2)})
    x, t = torch.randn(3, 8, 5, 5), torch.randn(3, 6)
    torch.testing.assert_close(small[0](x, t), whole[0](x, t))
    keep(small, {"0": torch.tensor([0, 1])})
    assert (small[0](x, t) - whole[0](x, t)).abs().max() > 1e-3, "control: what is used leaves a trace"


def test_multiply_adds_are_those_that_pytorch_counts(unet: UNet2DConditionModel) -> None:
    def counted(network: torch.nn.Module) -> float:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(*a_call(1))
        return float(counter.get_total_flops()) / 2

    blocks = read_blocks(unet, a_call())
    kept = lowest(blocks, same_share(blocks), 0.5)
    small = copy.deepcopy(unet)
    keep(small, kept)
    time_embedding = sum(
        (block.conv1.out_channels - len(kept[name])) * block.time_emb_proj.in_features
        for name, block in residual_blocks(unet).items()
    )
    fewer = multiply_adds(blocks, everything(blocks)) - multiply_adds(blocks, kept)
    assert counted(unet) - counted(small) == fewer + time_embedding


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_the_lowest_go_until_the_ratio_is_reached(data: st.DataObject) -> None:
    counts = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    blocks = [FilterBlock(str(i), torch.arange(4 * n).view(n, 4), torch.ones(n), 1) for i, n in enumerate(counts)]
    numbers = data.draw(st.permutations(range(sum(counts))))
    ranks = torch.tensor(numbers, dtype=torch.float64).split(counts)  # type: ignore[no-untyped-call]
    ratio = data.draw(st.floats(0.01, 0.99))
    kept = lowest(blocks, list(ranks), ratio)
    gone, total = sum(counts) * 4 - sum(map(len, kept.values())), sum(counts) * 4
    assert gone <= ratio * total + 1e-9
    assert all(len(own) >= 4 for own in kept.values())
    if ratio * total - gone >= 4:
        assert gone == total - 4 * len(counts), "less than asked only where nothing but last units is left"
    for block, own, ranking in zip(blocks, kept.values(), ranks, strict=True):
        left = {int(unit) // 4 for unit in own}
        assert {int(k) for k in ranking.argsort()[-len(left) :]} == left, "in a block the most important stay"
        assert block.name in kept


def test_by_magnitude_each_layer_loses_its_smallest_filters(unet: UNet2DConditionModel) -> None:
    blocks = read_blocks(unet, a_call())
    kept = lowest(blocks, same_share(blocks), 0.5)
    for name, own in kept.items():
        norms = residual_blocks(unet)[name].conv1.weight.detach().flatten(1).norm(dim=1).view(GROUPS, -1)
        assert len(own) == norms.numel() // 2
        for group, values in enumerate(norms):
            held = own[(own // norms.shape[1]) == group] % norms.shape[1]
            assert set(held.tolist()) == set(values.argsort()[norms.shape[1] // 2 :].tolist())


def test_scales_and_shifts_find_the_layer_that_nobody_hears(unet: UNet2DConditionModel) -> None:
    """A block whose second convolution is zero can lose all filters; by magnitude it loses only its share."""
    calls = [a_call()]
    blocks = read_blocks(unet, calls[0])
    deaf = max(blocks, key=lambda block: block.multiply_adds).name
    torch.nn.init.zeros_(residual_blocks(unet)[deaf].conv2.weight)
    with torch.no_grad():
        said = [unet(*calls[0]).sample]
    springs, error = learn_springs(unet, blocks, 0.1, calls, 0)
    kept = lowest(blocks, importance(blocks, springs), 0.1)
    plain = lowest(blocks, same_share(blocks), 0.1)
    assert error == output_error(unet, kept, calls, said)
    assert error < 0.2 * output_error(unet, plain, calls, said)
    assert len(kept[deaf]) < len(plain[deaf])
    assert multiply_adds(blocks, kept) <= multiply_adds(blocks, plain)
    assert output_error(unet, everything(blocks), calls, said) == 0


def test_tuning_brings_the_rest_back_to_what_the_whole_says(unet: UNet2DConditionModel) -> None:
    blocks = read_blocks(unet, a_call())
    small = copy.deepcopy(unet)
    keep(small, lowest(blocks, same_share(blocks), 0.5))
    before = [p.clone() for p in unet.parameters()]
    generator = torch.Generator().manual_seed(3)
    data = torch.randn(20, 4, 8, 8, generator=generator), torch.randn(20, 5, 8, generator=generator)
    alphas = torch.linspace(0.99, 0.01, 1000)
    losses = recover(small, unet, data, torch.zeros(5, 8), alphas, guided=True, seed=0, steps=60)
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:3])
    assert all(torch.equal(a, b) for a, b in zip(before, unet.parameters(), strict=True))
    assert all(p.grad is None for p in small.parameters()), "torch.export refuses float16 with gradients in float32"


@pytest.mark.parametrize("ratio", ["", "0", "1", "nan", "a third"])
def test_what_is_no_ratio_is_refused(ratio: str) -> None:
    for method, name in ((pic_pq, "pic-pq"), (magnitude, "magnitude")):
        with pytest.raises(InputError, match=f"--prune '{name}(:.+)?': give the share .* for example {name}:0.3"):
            method(ratio)


@pytest.mark.parametrize("text", ["random:0.3", "0.3"])
def test_an_unknown_method_is_refused_before_the_run_is_read(text: str) -> None:
    with pytest.raises(InputError, match=r"is unknown; give magnitude, pic-pq$"):
        ExportOptions(prune=text)


def test_a_large_base_is_refused() -> None:
    check_size(False)
    with pytest.raises(InputError, match="leave it out"):
        check_size(True)
