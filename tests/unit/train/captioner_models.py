"""Tiny random models in the layout of the hub, and images: what the captioners' tests load with the true code."""

import re
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

from dpd_train.attributes import GROUPS, VOCABULARY
from dpd_train.bases import build_tokenizer
from dpd_train.scene_set import SceneSet

SIDE, PATCH = 32, 8
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
}
WORDS = "<pad> <s> </s> <unk> <image> USER : ASSISTANT , . green brown fields road water houses dense sparse no the"
TEMPLATE = (
    "{% for message in messages %}<s> USER : {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT : {% endif %}"
)


def drawn(count: int, seed: int = 0) -> SceneSet:
    """Different images: noise in one colour each."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(60, 256, (count, SIDE, SIDE, 3)) * rng.uniform(0.1, 1, (count, 1, 1, 3))
    return SceneSet(("A", "B"), noise.astype(np.uint8), np.arange(count) % 2, (), ())


def tiny_clip(folder: Path) -> Path:
    """A CLIP model whose text side reads our own 32-token tokenizer."""
    tokenizer = build_tokenizer(VOCABULARY, folder.with_name(folder.name + "_words"))
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=16))
    model.save_pretrained(folder)
    look = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    look.save_pretrained(folder)
    CLIPProcessor(look, tokenizer).save_pretrained(folder)
    return folder


def tiny_siglip(folder: Path) -> Path:
    """A SigLIP model; its tokenizer is built of words, since SigLIP's own needs sentencepiece."""
    sentences = [group.template.format(phrase) for group in GROUPS for phrase in group.phrases]
    words = sorted({word for sentence in sentences for word in re.findall(r"\w+|[^\w\s]", sentence)})
    table = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", *words])}
    reader = Tokenizer(models.WordLevel(table, unk_token="<unk>"))
    reader.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=reader,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=16,
        model_input_names=["input_ids"],
    )
    text = {
        "vocab_size": len(table),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 16,
        "projection_size": 16,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SiglipModel(SiglipConfig(text_config=text, vision_config=VISION))
        model.logit_scale.data.fill_(4.0)
    model.save_pretrained(folder)
    SiglipImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_vlm(folder: Path, template: str | None = TEMPLATE) -> Path:
    """A LLaVA that writes words of WORDS at random, but other ones about other images."""
    table = {word: number for number, word in enumerate(WORDS.split())}
    reader = Tokenizer(models.WordLevel(table, unk_token="<unk>"))
    reader.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    reader.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", table["<s>"])])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=reader,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
        model_input_names=["input_ids", "attention_mask"],
    )
    language = LlamaConfig(
        vocab_size=len(table),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.6,
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION),
        text_config=language,
        image_token_index=table["<image>"],
        vision_feature_layer=-1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(config)
        for name, parameter in model.named_parameters():
            if "projector" in name:
                parameter.data.mul_(40)
        model.lm_head.weight.data[[0, 1, 3, 4]] = 0  # <pad> <s> <unk> <image> are never the likeliest
    model.save_pretrained(folder)
    look = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    LlavaProcessor(
        look,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    ).save_pretrained(folder)
    return folder
