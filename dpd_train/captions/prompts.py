"""Aggregated prompts: what the images of a prototype have in common, in one sentence (METHOD §1, item 3)."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import CLIPTextModel, CLIPTokenizer

from dpd_train.captions.attributes import aggregate, caption, class_words
from dpd_train.captions.captions import fit_phrases, token_counts, tokenize
from dpd_train.prototypes.prototypes import ClassPrototypes

log = logging.getLogger(__name__)

MIN_SHARE = 0.4  # of a prototype's members
CLASS_SHARE = 0.6  # of a whole class, all of whose images are drawn from one prompt then


@dataclass(frozen=True)
class PromptTable:
    """Distinct prompts and, for each class, the row of each of its prototypes (one row where it has none).

    Args:
        dropped: for each class, phrases that enough images share and that one of its prompts had no room for.
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

    A phrase enters when at least `k_min` of the images behind the prompt have it and at least a share `min_share` of
    them (CLASS_SHARE for a whole class), so that nothing in a prompt rests on a single image. Most frequent first,
    ties alphabetical. The result depends on nothing else.

    Args:
        phrases: for each class, the phrases of each of its images; images that are copies of another left out, as in
            the prototypes' members.
        k_min: at least 2.
        tokenizer: the one that will read the prompts: the rarest phrases for which it has no room are left out whole.
    """
    if k_min < 2:
        raise ValueError(f"k_min is {k_min}: a phrase of one image tells of that image")
    texts: dict[str, int] = {}
    rows, dropped = [], []
    for name, images, found in zip(classes, phrases, prototypes, strict=True):
        if found is None:
            shared = [aggregate(images, max(min_share, CLASS_SHARE), k_min)]
        else:
            groups = ([images[i] for i in (found.members == k).nonzero()[0]] for k in range(len(found.counts)))
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
            log.warning("class name %r has %d tokens; the text encoder reads the first %d alone", name, count, limit)


@torch.no_grad()
def embed(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, texts: Sequence[str]) -> torch.Tensor:
    """Last hidden states [len(texts), L, D]."""
    states: torch.Tensor = text_encoder(tokenize(tokenizer, texts)).last_hidden_state
    return states
