"""Tiny random Grounding DINO and SAM 2 in the layout of the hub: what the segmenter's tests load with the true code."""

from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoProcessor,
    Sam2Config,
    Sam2MaskDecoderConfig,
    Sam2Model,
    Sam2PromptEncoderConfig,
    Sam2VisionConfig,
    SwinConfig,
)
from transformers.models.sam2.configuration_sam2 import Sam2HieraDetConfig

try:  # the one that needs no torchvision; transformers 4 has it under the plain name
    from transformers import GroundingDinoImageProcessorPil as DinoLook
except ImportError:
    from transformers import GroundingDinoImageProcessor as DinoLook

SAM_SIDE = 128
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] . red square blue storage tanks"


def tiny_dino(folder: Path) -> Path:
    """A detector whose boxes and scores depend on image and words; it finds some of its three queries."""
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS.split()) + "\n")
    words = BertTokenizer(str(folder / "vocab.txt"))
    backbone = SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        window_size=4,
        out_features=["stage2", "stage3", "stage4"],
        out_indices=[2, 3, 4],
    )
    text = BertConfig(
        vocab_size=len(words), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    config = GroundingDinoConfig(
        backbone_config=backbone,
        text_config=text,
        num_queries=3,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GroundingDinoForObjectDetection(config)
        for name, parameter in model.named_parameters():
            if "bbox_embed" in name:
                parameter.data.normal_(std=0.1)
    model.save_pretrained(folder)
    look = DinoLook(size={"shortest_edge": 128, "longest_edge": 192})
    GroundingDinoProcessor(look, words).save_pretrained(folder)
    return folder


def tiny_sam(folder: Path) -> Path:
    backbone = Sam2HieraDetConfig(
        hidden_size=12,
        image_size=[SAM_SIDE, SAM_SIDE],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[12, 24, 48, 96],
        num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=[4, 2, 4, 2],
        global_attention_blocks=[3],
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[96, 48, 24, 12],
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
        fpn_hidden_size=32,
    )
    prompt = Sam2PromptEncoderConfig(hidden_size=32, image_size=SAM_SIDE, patch_size=16, mask_input_channels=8)
    decoder = Sam2MaskDecoderConfig(
        hidden_size=32, mlp_dim=32, num_hidden_layers=1, num_attention_heads=4, iou_head_hidden_dim=32
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = Sam2Model(Sam2Config(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder))
        for parameter in model.mask_decoder.parameters():
            if parameter.ndim > 1:
                parameter.data.normal_(std=0.5)
    model.save_pretrained(folder)
    return folder
