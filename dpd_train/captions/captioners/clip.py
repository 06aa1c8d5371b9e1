"""The captioner `clip:ID`: a CLIP or SigLIP model scores the phrases of a fixed vocabulary, group by group.

Zero-shot scoring as in Radford et al. 2021 (arXiv 2103.00020), section 3.1: cosine of image and sentence, times the
model's scale, softmax. SigLIP's bias (arXiv 2303.15343) is the same for all sentences and cancels in the softmax.
An image's phrases do not depend on the other images.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from dpd_runtime.annotations import Images
from dpd_runtime.errors import InputError
from dpd_train.bases.hub import check_tokenizer, complete_model, find_model, image_processor, model_hash, opened
from dpd_train.captions.captioners.captioner import Captioner, Describe, Phrases
from dpd_train.captions.captioners.vocabulary import GROUPS, Group

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
