"""Students' networks: two ConvNets, ResNet, MobileNetV2, ViT."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

# -- The default student: a shallow residual ConvNet that trains 1,000 steps in a minute on one core.


class _Down(nn.Sequential):
    """3×3 convolution that halves the resolution, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, 2, 1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU()
        )


class _Residual(nn.Module):
    """x + ReLU(BN(conv 3×3)), with one convolution per block to stay shallow and fast."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.relu(self.norm(self.conv(x)))


class ConvNet(nn.Module):
    """[B, in_channels, H, W] in [-1, 1] → logits [B, num_classes], for any H and W (global average pooling).

    Args:
        widths: channels of each stage; every stage halves the resolution.
        blocks: residual blocks in each stage, after its strided convolution.
    """

    def __init__(
        self,
        num_classes: int,
        widths: Sequence[int] = (16, 32, 64, 128),
        blocks: Sequence[int] = (0, 1, 2, 1),
        *,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        channels = in_channels
        layers: list[nn.Module] = []
        for width, count in zip(widths, blocks, strict=True):
            layers.append(_Down(channels, width))
            layers.extend(_Residual(width) for _ in range(count))
            channels = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(channels, num_classes)

    def stages(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the feature maps after each stage, fine to coarse."""
        maps: list[torch.Tensor] = []
        for layer in self.body:
            if isinstance(layer, _Down):
                maps.append(x)
            x = layer(x)
        return [*maps[1:], x]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.body(x).mean(dim=(2, 3)))
        return logits


# -- ConvNet-D3, the student of the dataset distillation literature (Gidaris & Komodakis 2018; Zhao et al. 2021).


class ConvNetD3(nn.Module):
    """Three blocks of 3×3 convolution with 128 maps, instance norm, ReLU and average pooling, then a linear layer.

    [B, in_channels, H, W] in [-1, 1] → logits [B, num_classes]. The linear layer sees 8 × 8 places: at 64 px the maps
    as they are, as in the literature; those of other sizes are averaged in that grid.
    """

    WIDTH, GRID = 128, 8

    def __init__(self, num_classes: int, *, in_channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (in_channels, self.WIDTH, self.WIDTH):
            norm = nn.InstanceNorm2d(self.WIDTH, affine=True)
            layers += [nn.Conv2d(channels, self.WIDTH, 3, padding=1), norm, nn.ReLU(), nn.AvgPool2d(2)]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(self.GRID))
        self.head = nn.Linear(self.WIDTH * self.GRID**2, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.body(x).flatten(1))
        return logits


# -- Residual networks with basic blocks (He et al. 2016), from transformers: `resnet` (small) and `resnet18`.


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


# -- MobileNetV2 at half width (Sandler et al. 2018), from transformers: depthwise convolutions, ReLU6.
#
# The settings in transformers are for weights from TensorFlow; training from scratch needs PyTorch's usual settings.


class _Float32(nn.Module):
    """A layer outside autocast. Strided depthwise convolutions train 6 to 30 times slower in bfloat16 on a CPU."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            out: torch.Tensor = self.layer(x.float())
            return out


def mobilenetv2(num_classes: int, *, in_channels: int = 3) -> nn.Module:
    """Build a MobileNetV2 with 7.4 M multiply-adds at 64 px and 0.6 M parameters."""
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    config = MobileNetV2Config(
        num_channels=in_channels,
        depth_multiplier=0.5,
        finegrained_output=False,
        tf_padding=False,
        layer_norm_eps=1e-5,
        classifier_dropout_prob=0.2,
        num_labels=num_classes,
    )
    model = MobileNetV2ForImageClassification(config)
    for parent in list(model.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = 0.1  # transformers keeps TensorFlow's 0.997, which PyTorch counts the other way
            elif isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")
                if layer.groups > 1 and layer.stride[0] > 1:
                    setattr(parent, name, _Float32(layer))
    return Logits(model)


# -- A small vision transformer (Dosovitskiy et al. 2021), from transformers.


def vit_tiny(num_classes: int, *, in_channels: int = 3) -> nn.Module:
    """Build a ViT with 8 px patches, 4 layers of width 96 and 3 heads: 30 M multiply-adds at 64 px, 0.5 M parameters.

    DeiT-Ti (12 layers of width 192) would take ten times as long, and its patches are meant for 224 px.
    """
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        num_channels=in_channels,
        image_size=64,
        patch_size=8,
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=3,
        intermediate_size=384,
        num_labels=num_classes,
    )
    # with 65 tokens on a CPU, the backward pass of fused attention takes twice as long
    config._attn_implementation = "eager"
    return Logits(ViTForImageClassification(config))


# -- A transformers image classifier with the interface of a student.


class Logits(nn.Module):
    """[B, C, H, W] in [-1, 1] → logits [B, num_classes] of a transformers model.

    Position embeddings are interpolated if the model supports it, so that images of any size can be used.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        accepted = inspect.signature(model.forward).parameters
        self.options = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in accepted else {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(pixel_values=x, **self.options).logits
        return logits
