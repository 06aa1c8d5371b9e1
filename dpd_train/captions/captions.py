"""What the text encoder reads in training: the class alone, or the class with the phrases of the image."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import CLIPTokenizer

from dpd_train.captions.attributes import caption

_TURNED = {"horizontal": "vertical", "vertical": "horizontal"}


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


def token_counts(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> list[int]:
    """Tokens of each text as a whole, start and end included; `tokenizer.model_max_length` are read."""
    # truncation at a length that no caption reaches keeps transformers from warning of what is handled here
    encoded = tokenizer(list(texts), truncation=True, max_length=1_000_000)
    return [len(ids) for ids in encoded["input_ids"]]


def fit_phrases(
    tokenizer: CLIPTokenizer, names: Sequence[str], phrases: Sequence[Sequence[str]]
) -> list[tuple[str, ...]]:
    """Of each caption's phrases as many as the tokenizer reads whole; the last ones are left out, none is cut.

    Args:
        names: the class of each caption. phrases: of each caption, the most important first.
    """
    kept = [tuple(words) for words in phrases]
    rows = list(range(len(kept)))
    while rows:
        counts = token_counts(tokenizer, [caption(names[i], kept[i]) for i in rows])
        rows = [i for i, n in zip(rows, counts, strict=True) if n > tokenizer.model_max_length and kept[i]]
        for i in rows:
            kept[i] = kept[i][:-1]
    return kept


def turn_phrases(phrases: Sequence[str]) -> tuple[str, ...]:
    """The phrases of the same image turned by 90 degrees."""
    return tuple(re.sub(r"\b(?:horizontal|vertical)\b", lambda word: _TURNED[word[0]], phrase) for phrase in phrases)


def caption_table(
    tokenizer: CLIPTokenizer, classes: Sequence[str], labels: Sequence[int], phrases: Sequence[Sequence[str]]
) -> CaptionTable:
    """Captions of every training image, from its class and as many of its phrases as the tokenizer reads."""
    names = [classes[label] for label in labels]

    def ids(of_images: Sequence[Sequence[str]]) -> torch.Tensor:
        fitting = fit_phrases(tokenizer, names, of_images)
        return tokenize(tokenizer, [caption(name, words) for name, words in zip(names, fitting, strict=True)])

    return CaptionTable(
        template=tokenize(tokenizer, [caption(name, ()) for name in classes]),
        described=torch.stack([ids(phrases), ids([turn_phrases(words) for words in phrases])]),
        empty=tokenize(tokenizer, [""])[0],
    )
