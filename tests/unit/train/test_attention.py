"""Attention networks: PyTorch's own attention layer, their tokens, and their training and files."""

from pathlib import Path

import pytest
import torch
from torch import nn

from dpd_train.classifiers import ClassifierTraining, load_pool, train_pool
from dpd_train.networks import AttentionBlock, AttentionConfig, positions

SHAPE = AttentionConfig(num_classes=3, width=16, blocks=2, heads=2)


def test_a_block_is_pytorchs_encoder_layer() -> None:
    torch.manual_seed(0)
    block = AttentionBlock(16, 4)
    layer = nn.TransformerEncoderLayer(16, 4, 48, 0.0, "gelu", batch_first=True, norm_first=True)
    pairs = {
        layer.self_attn.in_proj_weight: block.qkv.weight,
        layer.self_attn.in_proj_bias: block.qkv.bias,
        layer.self_attn.out_proj.weight: block.out.weight,
        layer.self_attn.out_proj.bias: block.out.bias,
        layer.linear1.weight: block.mlp[0].weight,
        layer.linear1.bias: block.mlp[0].bias,
        layer.linear2.weight: block.mlp[2].weight,
        layer.linear2.bias: block.mlp[2].bias,
    }
    with torch.no_grad():
        for theirs, ours in pairs.items():
            theirs.copy_(torch.randn_like(ours, generator=None) * 0.3)
            ours.copy_(theirs)
    tokens = torch.randn(5, 9, 16)
    torch.testing.assert_close(block(tokens), layer(tokens), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("side", "tokens"), [(16, 2), (64, 8), (128, 8), (100, 8)])
def test_there_are_at_most_eight_tokens_a_side(side: int, tokens: int) -> None:
    network = SHAPE.build().eval()
    maps = network.features(torch.zeros(2, 3, side, side))
    assert [tuple(found.shape) for found in maps] == [(2, 16, tokens, tokens)] * 3
    assert network(torch.zeros(2, 3, side, side)).shape == (2, 3)


def test_every_place_has_a_position_of_its_own_with_one_norm() -> None:
    found = positions(64, 8, 8)
    distances = torch.cdist(found, found) + 10 * torch.eye(64)
    assert float(distances.min()) > 0.5
    torch.testing.assert_close(found.square().sum(1), torch.full((64,), 32.0))


def test_a_trained_network_tells_where_something_is(tmp_path: Path) -> None:
    """Classes that differ by the place of a bar, in every orientation: in the middle, at the border, or nowhere."""
    generator = torch.Generator().manual_seed(0)
    images, labels = 0.1 * torch.randn(300, 3, 32, 32, generator=generator), torch.arange(300) % 3
    images[labels == 1, :, :, 14:18] += 1
    images[labels == 2, :, :, :4] += 1
    data = images[:240], labels[:240]
    held = images[240:], labels[240:]
    training = ClassifierTraining(steps=150, batch=32, peak_rate=1e-3, warmup=20, validate_every=150, seed=4)
    train_pool(tmp_path, "eye", [(SHAPE, training)], data, held, lambda step, steps: None)
    (network,) = load_pool(tmp_path, "eye", [SHAPE])
    assert float((network(held[0]).argmax(1) == held[1]).float().mean()) > 0.9
