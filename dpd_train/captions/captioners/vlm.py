"""The captioner `vlm:ID`: an instruction-tuned vision-language model writes phrases about each image."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from dpd_runtime.annotations import Images
from dpd_runtime.errors import InputError
from dpd_train.bases.hub import check_tokenizer, complete_model, find_model, image_processor, model_hash, opened
from dpd_train.captions.captioners.answers import FORMAT, INSTRUCTION, MAX_LETTERS, MAX_PHRASES, MAX_WORDS, parse
from dpd_train.captions.captioners.captioner import Captioner, Describe, Phrases

BATCH = 8
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
    return Captioner("vlm", lambda: model_hash(folder), words, BATCH, lambda device: _load(name, folder, device))


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


def _load(name: str, folder: Path, device: torch.device) -> Describe:
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
