"""The common form of captioners: an identity for stored phrases, and a function that is loaded when needed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dpd_runtime.annotations import Images

if TYPE_CHECKING:
    import torch

Phrases = tuple[str, ...]
Describe = Callable[[Images], list[Phrases]]


@dataclass(frozen=True)
class Captioner:
    """A source of phrases for images.

    Args:
        kind: attributes, clip or vlm; not the model's name, as its folder may move.
        model: () → sha256 of the model or code.
        words: sha256 of its vocabulary or instruction.
        batch: images at a time.
        load: device → function from images, uint8 [n, H, W, 3], to the phrases of each.
    """

    kind: str
    model: Callable[[], str]
    words: str
    batch: int
    load: "Callable[[torch.device], Describe]"
