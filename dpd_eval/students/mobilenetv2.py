"""MobileNetV2 at half width (Sandler et al. 2018), from transformers: depthwise convolutions, ReLU6.

The settings in transformers are for weights from TensorFlow; training from scratch needs PyTorch's usual settings.
"""

import torch
from torch import nn

from dpd_eval.students.logits import Logits


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
