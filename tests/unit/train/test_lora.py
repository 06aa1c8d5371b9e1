"""Adapters: what a training loop sees of them, what is saved, what the merged UNet does."""

import copy
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers import UNet2DConditionModel as UNet
from safetensors.torch import load_file

from dpd_train.bases import load_base
from dpd_train.networks import count_parameters
from dpd_train.tuning import Adapted, add_adapters, merge_adapters, save_adapters
from tests.sd_like import LENGTH, sd_like


@pytest.fixture
def unet(tmp_path: Path) -> UNet:
    return load_base(str(sd_like(tmp_path / "sd", version=2))).unet


def _inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    context = torch.randn(2, LENGTH, 16, generator=generator)
    return torch.randn(2, 4, 4, 4, generator=generator), torch.tensor([3, 700]), context


def _shake(module: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))


def test_adapters_are_small_seeded_and_change_nothing_at_first(unet: UNet) -> None:
    with torch.no_grad():
        before = unet(*_inputs()).sample
    twin = add_adapters(copy.deepcopy(unet), 2, seed=5)
    adapted = Adapted(add_adapters(unet, 2, seed=5))
    other = Adapted(add_adapters(copy.deepcopy(merge_adapters(copy.deepcopy(unet))), 2, seed=6))
    with torch.no_grad():
        torch.testing.assert_close(adapted(*_inputs()).sample, before)
    # 2 attention blocks × (self, cross) × 4 layers × (A, B), in all places where attention is
    attention = [m for m in unet.modules() if hasattr(m, "to_q")]
    assert len(list(adapted.parameters())) == len(attention) * 4 * 2
    assert count_parameters(adapted) < 0.2 * count_parameters(unet)
    same = [torch.equal(a, b) for a, b in zip(adapted.parameters(), Adapted(twin).parameters(), strict=True)]
    assert all(same)
    assert not all(torch.equal(a, b) for a, b in zip(adapted.parameters(), other.parameters(), strict=True))


def test_only_adapters_learn_and_a_copy_shares_the_network(unet: UNet) -> None:
    adapted = Adapted(add_adapters(unet, 2, seed=0))
    _shake(adapted, 1)
    average = copy.deepcopy(adapted).requires_grad_(False)
    assert average.network is adapted.network
    _shake(adapted, 2)
    with torch.no_grad():
        now, then = adapted(*_inputs()).sample, average(*_inputs()).sample
    assert (now - then).abs().max() > 1e-3  # the copy runs with its own parameters
    frozen = {name: p.clone() for name, p in unet.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.SGD(adapted.parameters(), lr=0.1)
    adapted(*_inputs()).sample.square().mean().backward()
    optimizer.step()
    assert all(torch.equal(p, frozen[name]) for name, p in unet.named_parameters() if name in frozen)
    with torch.no_grad():
        assert not torch.equal(adapted(*_inputs()).sample, now)
        torch.testing.assert_close(average(*_inputs()).sample, then)
        average.write_back()
        torch.testing.assert_close(adapted(*_inputs()).sample, then)


def test_state_holds_the_adapters_alone_and_comes_back(unet: UNet) -> None:
    adapted = Adapted(add_adapters(unet, 2, seed=0))
    _shake(adapted, 1)
    state = {name: value.clone() for name, value in adapted.state_dict().items()}
    assert sum(value.numel() for value in state.values()) == count_parameters(adapted)
    with torch.no_grad():
        expected = adapted(*_inputs()).sample
    _shake(adapted, 2)
    adapted.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(adapted(*_inputs()).sample, expected)


def test_merged_unet_and_saved_adapters_give_the_trained_outputs(unet: UNet, tmp_path: Path) -> None:
    adapted = Adapted(add_adapters(unet, 2, seed=0))
    _shake(adapted, 1)
    with torch.no_grad():
        expected = adapted(*_inputs()).sample
    save_adapters(unet, tmp_path / "adapter")
    merged = merge_adapters(unet)
    assert not [name for name in merged.state_dict() if "lora" in name or "base_layer" in name]
    with torch.no_grad():
        torch.testing.assert_close(merged(*_inputs()).sample, expected, atol=1e-5, rtol=1e-4)
    assert len(load_file(tmp_path / "adapter" / "pytorch_lora_weights.safetensors")) == len(list(adapted.parameters()))
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "sd", local_files_only=True)
    with torch.no_grad():
        plain = pipeline.unet(*_inputs()).sample
        pipeline.load_lora_weights(tmp_path / "adapter")
        torch.testing.assert_close(pipeline.unet(*_inputs()).sample, expected, atol=1e-5, rtol=1e-4)
    assert (plain - expected).abs().max() > 1e-3


def test_a_network_without_anything_to_learn_still_runs(unet: UNet) -> None:
    frozen = Adapted(unet.requires_grad_(False))
    assert list(frozen.parameters()) == []
    assert dict(frozen.state_dict()) == {}
    with torch.no_grad():
        torch.testing.assert_close(copy.deepcopy(frozen)(*_inputs()).sample, unet(*_inputs()).sample)
