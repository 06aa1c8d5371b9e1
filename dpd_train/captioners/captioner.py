"""What every captioner is: an identity under which its words are kept, and a function that is loaded when needed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dpd_runtime.errors import InputError
from dpd_train.hub import first_sentence

Images = NDArray[np.uint8]
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


def opened(name: str, load: Callable[[], Any]) -> Any:
    """What `load` returns.

    Raises:
        InputError: it failed in any way; transformers raises almost any type on a folder that it cannot use.
    """
    try:
        return load()
    except Exception as error:
        way_out = "install that" if isinstance(error, ImportError) else "take another model"
        raise InputError(f"captioner {name}: cannot be loaded ({first_sentence(error)}); {way_out}") from None


def complete_model(name: str, model_class: Any, folder: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """A transformers model from safetensors, in evaluation mode.

    Raises:
        InputError: it cannot be loaded, or its checkpoint lacks tensors (which would be drawn at random).
    """
    model, report = opened(
        name,
        lambda: model_class.from_pretrained(
            folder,
            use_safetensors=True,
            dtype=dtype,
            output_loading_info=True,
            local_files_only=True,
            trust_remote_code=False,
        ),
    )
    missing = sorted(report["missing_keys"])
    if missing:
        raise InputError(f"captioner {name}: its weights lack {len(missing)} tensors, first {missing[0]}; take another")
    return model.to(device).eval()
