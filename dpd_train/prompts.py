"""Aggregated prompts: what the images of a prototype have in common, in one sentence (METHOD §1, item 3)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import CLIPTextModel, CLIPTokenizer

from dpd_train.attributes import aggregate, caption
from dpd_train.captions import tokenize
from dpd_train.prototypes import ClassPrototypes

MIN_SHARE = 0.4


@dataclass(frozen=True)
class PromptTable:
    """Distinct prompts and, for each class, the row of each of its prototypes (one row where it has none)."""

    texts: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]


def aggregate_prompts(
    classes: Sequence[str],
    phrases: Sequence[Sequence[tuple[str, ...]]],
    prototypes: Sequence[ClassPrototypes | None],
    k_min: int,
) -> PromptTable:
    """One prompt for each prototype, from the phrases that many of its members and at least `k_min` of them share.

    Args:
        phrases: for each class, the phrases of each of its images.
    """
    texts: dict[str, int] = {}
    rows = []
    for name, images, found in zip(classes, phrases, prototypes, strict=True):
        if found is None:
            groups: list[list[tuple[str, ...]]] = [[]]
        else:
            groups = [[images[i] for i in (found.members == k).nonzero()[0]] for k in range(len(found.counts))]
        prompts = [caption(name, aggregate(g, MIN_SHARE, k_min) if g else ()) for g in groups]
        rows.append(tuple(texts.setdefault(prompt, len(texts)) for prompt in prompts))
    return PromptTable(tuple(texts), tuple(rows))


def write_classes(path: Path, classes: Sequence[str], table: PromptTable, counts: Sequence[tuple[int, ...]]) -> None:
    """classes.json: names, prompts, and for each prototype its prompt and its number of members."""
    content = {
        "prototype_kind": "centroid" if any(counts) else "none",
        "prompts": table.texts,
        "classes": [
            {"name": name, "prompt_rows": rows, "prototype_counts": members}
            for name, rows, members in zip(classes, table.rows, counts, strict=True)
        ],
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


@torch.no_grad()
def embed(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, texts: Sequence[str]) -> torch.Tensor:
    """Last hidden states [len(texts), L, D]."""
    states: torch.Tensor = text_encoder(tokenize(tokenizer, texts)).last_hidden_state
    return states
