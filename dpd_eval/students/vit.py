"""A small vision transformer (Dosovitskiy et al. 2021), from transformers."""

from torch import nn

from dpd_eval.students.logits import Logits


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
