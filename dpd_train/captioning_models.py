"""Captioners with a model of transformers: CLIP scores phrases, a language model answers."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from dpd_runtime.annotations import Images
from dpd_runtime.errors import InputError
from dpd_train.attributes import (
    FORMAT,
    GROUPS,
    INSTRUCTION,
    MAX_LETTERS,
    MAX_PHRASES,
    MAX_WORDS,
    Captioner,
    Describe,
    Group,
    Phrases,
    parse,
)
from dpd_train.model_files import check_tokenizer, complete_model, find_model, image_processor, model_hash, opened

# -- The captioner `clip:ID`: a CLIP or SigLIP model scores the phrases of a fixed vocabulary, group by group.
#
# Zero-shot scoring as in Radford et al. 2021 (arXiv 2103.00020), section 3.1: cosine of image and sentence, times the
# model's scale, softmax. SigLIP's bias (arXiv 2303.15343) is the same for all sentences and cancels in the softmax. An
# image's phrases do not depend on the other images.


BATCH = 32
KINDS = ("clip", "siglip")  # of config.json's model_type
CLEAR = 4.0  # a phrase is taken if it is this many times as probable as the mean of the others in its group


def clip_captioner(source: str) -> Captioner:
    """The captioner `clip:SOURCE`. The model is found and its folder checked, but it is not loaded yet.

    Raises:
        InputError: no such model on this machine, another kind of model, no safetensors.
    """
    name = f"captioner clip:{source}"
    folder, kind = find_model(source)
    if kind not in KINDS:
        raise InputError(f"{name}: is a {kind!r} model; one of type {' or '.join(KINDS)} is needed")
    check_tokenizer(folder, source)
    _readers(name, folder)
    words = hashlib.sha256(
        json.dumps([CLEAR, [asdict(group) for group in GROUPS]], allow_nan=False).encode()
    ).hexdigest()
    return Captioner("clip", lambda: model_hash(folder), words, BATCH, lambda device: _load(name, folder, device))


def choose(logits: NDArray[np.floating[Any]], groups: Sequence[Group] = GROUPS) -> list[Phrases]:
    """The phrases of each image that are clearly more probable than the others of their group.

    Args:
        logits: [n, V], cosine times temperature; V phrases in the order of the groups.
    """
    choices: list[list[str]] = [[] for _ in logits]
    start = 0
    for group in groups:
        part = logits[:, start : start + len(group.phrases)].astype(np.float64)
        start += len(group.phrases)
        weights = np.exp(part - part.max(axis=1, keepdims=True))
        probabilities = weights / weights.sum(axis=1, keepdims=True)
        clear = probabilities * (len(group.phrases) - 1) >= CLEAR * (1 - probabilities)
        for image, order in enumerate(np.argsort(-probabilities, axis=1, kind="stable")[:, : group.most]):
            choices[image] += [group.phrases[i] for i in order if clear[image, i]]
    return [tuple(phrases) for phrases in choices]


def _readers(name: str, folder: Path) -> tuple[Any, Any]:
    """Image processor and tokenizer."""
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    return (
        image_processor(name, folder),
        opened(name, lambda: AutoTokenizer.from_pretrained(folder, **local)),
    )


def _load(name: str, folder: Path, device: torch.device) -> Describe:
    model = complete_model(name, AutoModel, folder, torch.float32, device)
    look, read = _readers(name, folder)
    sentences = [group.template.format(phrase) for group in GROUPS for phrase in group.phrases]
    # SigLIP was trained with full-length padding and without a mask; CLIP's padding only costs time.
    padding = "max_length" if model.config.model_type == "siglip" else True
    tokens = read(sentences, padding=padding, truncation=True, return_tensors="pt").to(device)
    one = {key: value[:1] for key, value in tokens.items()}

    # The whole model gives the same output in transformers 4 and 5, which its towers alone do not; the tower that is
    # not needed gets one blank image or one sentence.
    @torch.no_grad()
    def embed(images: Images, texts: Any) -> Any:
        pixels = look(images=list(images), return_tensors="pt", input_data_format="channels_last")["pixel_values"]
        return model(**texts, pixel_values=pixels.to(device))

    words = torch.nn.functional.normalize(embed(np.zeros((1, 32, 32, 3), np.uint8), tokens).text_embeds, dim=-1)
    scale = model.logit_scale.detach().exp()

    def describe(images: Images) -> list[Phrases]:
        pictures = torch.nn.functional.normalize(embed(images, one).image_embeds, dim=-1)
        return choose((scale * pictures @ words.T).cpu().numpy())

    return describe


# -- The captioner `vlm:ID`: an instruction-tuned vision-language model writes phrases about each image.


VLM_BATCH = 8
NEW_TOKENS = 72


def vlm_captioner(source: str) -> Captioner:
    """The captioner `vlm:SOURCE`. The model is found and its processor opened, but its weights are not loaded yet.

    Raises:
        InputError: the model is not on this machine, is of another kind, or has no chat template or safetensors.
    """
    name = f"captioner vlm:{source}"
    folder, kind = find_model(source)
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise InputError(f"{name}: is a {kind!r} model; an image-text-to-text model is needed")
    check_tokenizer(folder, source)
    _processor(name, folder)
    limits = [FORMAT, INSTRUCTION, MAX_PHRASES, MAX_WORDS, MAX_LETTERS, NEW_TOKENS]
    words = hashlib.sha256(json.dumps(limits, allow_nan=False).encode()).hexdigest()
    return Captioner(
        "vlm", lambda: model_hash(folder), words, VLM_BATCH, lambda device: _load_language_model(name, folder, device)
    )


def _processor(name: str, folder: Path) -> Any:
    processor = opened(
        name, lambda: AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    )
    processor.image_processor = image_processor(name, folder)
    if getattr(processor, "chat_template", None) is None:
        raise InputError(f"{name}: has no chat template; take an instruction-tuned model")
    processor.tokenizer.padding_side = "left"  # the answer follows the prompt directly
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return processor


def _load_language_model(name: str, folder: Path, device: torch.device) -> Describe:
    processor = _processor(name, folder)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = complete_model(name, AutoModelForImageTextToText, folder, dtype, device)
    content = [{"type": "image"}, {"type": "text", "text": INSTRUCTION}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    start = processor.tokenizer.bos_token
    own_start = bool(start and prompt.startswith(start))  # then the tokenizer must not add another

    @torch.no_grad()
    def describe(images: Images) -> list[Phrases]:
        encoded = processor(
            text=[prompt] * len(images),
            images=[[Image.fromarray(image)] for image in images],
            padding=True,
            add_special_tokens=not own_start,
            return_tensors="pt",
        )
        inputs = {k: v.to(device, dtype if v.is_floating_point() else v.dtype) for k, v in encoded.items()}
        written = model.generate(
            **inputs,
            do_sample=False,
            num_beams=1,
            max_new_tokens=NEW_TOKENS,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=processor.tokenizer.pad_token_id,
        )
        answers = written[:, inputs["input_ids"].shape[1] :]
        return [parse(answer) for answer in processor.batch_decode(answers, skip_special_tokens=True)]

    return describe
