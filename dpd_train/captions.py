"""What the text encoder reads in training: the class alone, or the class with measured attributes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import CLIPTokenizer

from dpd_train.attributes import caption

_TURNED = {"horizontal lines": "vertical lines", "vertical lines": "horizontal lines"}


@dataclass(frozen=True)
class CaptionTable:
    """Token ids, each [.., L] int64.

    Args:
        template: [classes, L], "a satellite image of {class}".
        described: [2, n, L], with the phrases of image i; row 1 is for images turned by 90 or 270 degrees.
        empty: [L], the prompt of the unconditional pass.
    """

    template: torch.Tensor
    described: torch.Tensor
    empty: torch.Tensor

    def draw(
        self, rows: torch.Tensor, labels: torch.Tensor, turned: torch.Tensor, dropout: float, generator: torch.Generator
    ) -> torch.Tensor:
        """Captions [B, L] of images `rows`: half template, half described, a share `dropout` empty."""
        kind = torch.rand(len(rows), generator=generator)
        described = self.described[turned.long(), rows]
        ids = torch.where((kind < 0.5)[:, None], self.template[labels[rows]], described)
        dropped = torch.rand(len(rows), generator=generator) < dropout
        return torch.where(dropped[:, None], self.empty, ids)


def tokenize(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> torch.Tensor:
    """Ids [len(texts), L], padded and cut to the tokenizer's length."""
    encoded = tokenizer(
        list(texts), padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    )
    ids: torch.Tensor = encoded["input_ids"]
    return ids


def turn_phrases(phrases: Sequence[str]) -> tuple[str, ...]:
    """The phrases of the same image turned by 90 degrees."""
    return tuple(_TURNED.get(phrase, phrase) for phrase in phrases)


def caption_table(
    tokenizer: CLIPTokenizer, classes: Sequence[str], labels: Sequence[int], phrases: Sequence[Sequence[str]]
) -> CaptionTable:
    """Captions of every training image, from its class and its phrases."""
    names = [classes[label] for label in labels]
    upright = [caption(name, words) for name, words in zip(names, phrases, strict=True)]
    turned = [caption(name, turn_phrases(words)) for name, words in zip(names, phrases, strict=True)]
    return CaptionTable(
        template=tokenize(tokenizer, [caption(name, ()) for name in classes]),
        described=torch.stack([tokenize(tokenizer, upright), tokenize(tokenizer, turned)]),
        empty=tokenize(tokenizer, [""])[0],
    )
