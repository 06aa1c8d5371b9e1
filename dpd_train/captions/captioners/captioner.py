"""What every captioner is: an identity under which its words are kept, and a function that is loaded when needed."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from dpd_runtime.annotations import Images

Phrases = tuple[str, ...]
Describe = Callable[[Images], list[Phrases]]


@dataclass(frozen=True)
class Captioner:
    """Something that has phrases for an image.

    Args:
        kind: attributes, clip or vlm; the name without the model, whose folder may move.
        model: () → sha256 of what it computes with.
        words: sha256 of what it is asked: its vocabulary or its instruction.
        batch: images at a time.
        load: device → function of images, uint8 [n, H, W, 3], to the phrases of each.
    """

    kind: str
    model: Callable[[], str]
    words: str
    batch: int
    load: Callable[[torch.device], Describe]
