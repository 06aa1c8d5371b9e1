"""What the text encoder reads: captions of training images, and prompts of prototypes.

A caption is the class alone, or the class with the phrases of the image. A prompt has the phrases that the images of a
prototype share (arXiv 2601.15829).
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import CLIPTextModel, CLIPTokenizer

from dpd_train.attributes import aggregate, caption, class_words
from dpd_train.prototypes import ClassPrototypes

_TURNED = {"horizontal": "vertical", "vertical": "horizontal"}
log = logging.getLogger(__name__)
MIN_SHARE = 0.4  # of a prototype's members
CLASS_SHARE = 0.6  # of a whole class, all of whose images are then sampled from one prompt


@dataclass(frozen=True)
class CaptionTable:
    """Captions of training images as token ids, each [.., L] int64.

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
        """Random captions [B, L] of images `rows`: half template, half described; a share `dropout` is empty."""
        kind = torch.rand(len(rows), generator=generator)
        described = self.described[turned.long(), rows]
        ids = torch.where((kind < 0.5)[:, None], self.template[labels[rows]], described)
        dropped = torch.rand(len(rows), generator=generator) < dropout
        return torch.where(dropped[:, None], self.empty, ids)


def tokenize(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> torch.Tensor:
    """Token ids [len(texts), L], padded and cut to the tokenizer's length."""
    encoded = tokenizer(
        list(texts), padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    )
    ids: torch.Tensor = encoded["input_ids"]
    return ids


def token_counts(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> list[int]:
    """Number of tokens of each text, with start and end, before it is cut to `tokenizer.model_max_length`."""
    # a length that no caption reaches stops a warning of transformers about something that is handled here
    encoded = tokenizer(list(texts), truncation=True, max_length=1_000_000)
    return [len(ids) for ids in encoded["input_ids"]]


def fit_phrases(
    tokenizer: CLIPTokenizer, names: Sequence[str], phrases: Sequence[Sequence[str]]
) -> list[tuple[str, ...]]:
    """As many phrases of each caption as the tokenizer reads whole; the last ones are left out, none is cut.

    Args:
        names: the class of each caption. phrases: those of each caption, the most important first.
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
    """Captions of the training images, from their classes and as many of their phrases as the tokenizer reads."""
    names = [classes[label] for label in labels]

    def ids(of_images: Sequence[Sequence[str]]) -> torch.Tensor:
        fitting = fit_phrases(tokenizer, names, of_images)
        return tokenize(tokenizer, [caption(name, words) for name, words in zip(names, fitting, strict=True)])

    return CaptionTable(
        template=tokenize(tokenizer, [caption(name, ()) for name in classes]),
        described=torch.stack([ids(phrases), ids([turn_phrases(words) for words in phrases])]),
        empty=tokenize(tokenizer, [""])[0],
    )


@dataclass(frozen=True)
class PromptTable:
    """Distinct prompts and, for each class, the row of each of its prototypes; one row if it has no prototypes.

    Args:
        dropped: for each class, phrases that enough images share but that did not fit into one of its prompts.
    """

    texts: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]
    dropped: tuple[tuple[str, ...], ...] = ()


def aggregate_prompts(
    classes: Sequence[str],
    phrases: Sequence[Sequence[tuple[str, ...]]],
    prototypes: Sequence[ClassPrototypes | None],
    k_min: int,
    *,
    tokenizer: CLIPTokenizer | None = None,
    min_share: float = MIN_SHARE,
) -> PromptTable:
    """One prompt for each prototype, or for a class without prototypes, from the phrases that its images share.

    A phrase enters if at least `k_min` of the prompt's images and at least a share `min_share` of them have it
    (CLASS_SHARE for a whole class), so that no phrase comes from a single image. Most frequent first, ties
    alphabetical. The result depends on nothing else.

    Args:
        phrases: for each class, the phrases of each of its images, without copies, as in the prototypes' members.
        k_min: at least 2.
        tokenizer: the one that will read the prompts; the rarest phrases that do not fit are left out whole.

    Raises:
        ValueError: `k_min` is below 2.
    """
    if k_min < 2:
        raise ValueError(f"k_min is {k_min}: a phrase of one image tells of that image")
    texts: dict[str, int] = {}
    rows, dropped = [], []
    for name, images, class_prototypes in zip(classes, phrases, prototypes, strict=True):
        if class_prototypes is None:
            shared = [aggregate(images, max(min_share, CLASS_SHARE), k_min)]
        else:
            groups = (
                [images[i] for i in (class_prototypes.members == k).nonzero()[0]]
                for k in range(len(class_prototypes.counts))
            )
            shared = [aggregate(group, min_share, k_min) for group in groups]
        wanted = [tuple(phrase for phrase in words if phrase != class_words(name)) for words in shared]
        fitting = wanted if tokenizer is None else fit_phrases(tokenizer, [name] * len(wanted), wanted)
        prompts = [caption(name, words) for words in fitting]
        rows.append(tuple(texts.setdefault(prompt, len(texts)) for prompt in prompts))
        dropped.append(_beyond(wanted, fitting))
    table = PromptTable(tuple(texts), tuple(rows), tuple(dropped))
    if tokenizer is not None:
        _tell(classes, table, tokenizer)
    return table


def _beyond(wanted: Sequence[tuple[str, ...]], fitting: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word for w, f in zip(wanted, fitting, strict=True) for word in w[len(f) :]))


def _tell(classes: Sequence[str], table: PromptTable, tokenizer: CLIPTokenizer) -> None:
    limit = int(tokenizer.model_max_length)
    for name, words in zip(classes, table.dropped, strict=True):
        if words:
            log.info("%s: no room in %d tokens for: %s", name, limit, ", ".join(words))
    bare = token_counts(tokenizer, [caption(name, ()) for name in classes])
    for name, count in zip(classes, bare, strict=True):
        if count > limit:
            log.warning("class name %r has %d tokens; the text encoder reads only the first %d", name, count, limit)


@torch.no_grad()
def embed(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, texts: Sequence[str]) -> torch.Tensor:
    """Last hidden states [len(texts), L, D] of the text encoder."""
    states: torch.Tensor = text_encoder(tokenize(tokenizer, texts)).last_hidden_state
    return states
