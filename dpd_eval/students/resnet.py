"""Residual networks with basic blocks (He et al. 2016), from transformers: `resnet` (small) and `resnet18`."""

from collections.abc import Sequence

from torch import nn

from dpd_eval.students.logits import Logits


def build(num_classes: int, widths: Sequence[int], depths: Sequence[int], in_channels: int) -> nn.Module:
    """Build a 7×7 stem with max pooling (together stride 4), then stages with `depths` blocks of `widths` channels."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        num_channels=in_channels,
        embedding_size=widths[0],
        hidden_sizes=list(widths),
        depths=list(depths),
        layer_type="basic",
        num_labels=num_classes,
    )
    return Logits(ResNetForImageClassification(config))


def small(num_classes: int, *, in_channels: int = 3) -> nn.Module:
    """Build ResNet-10 at half width: 20.5 M multiply-adds at 64 px, 1.2 M parameters."""
    return build(num_classes, (32, 64, 128, 256), (1, 1, 1, 1), in_channels)


def resnet18(num_classes: int, *, in_channels: int = 3) -> nn.Module:
    """Build ResNet-18 as published: 148 M multiply-adds at 64 px, 11.2 M parameters, ten times the time of convnet."""
    return build(num_classes, (64, 128, 256, 512), (2, 2, 2, 2), in_channels)
