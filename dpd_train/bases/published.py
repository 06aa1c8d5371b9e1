"""Published image models of transformers: what they see, at the size and in the colours that they have learned from."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dpd_runtime.errors import InputError
from dpd_train.bases.hub import check_model, first_sentence, model_folder, opened
from dpd_train.compute.device import autocast

PROCESSOR_NAME = "preprocessor_config.json"
LAYERS = 4
"""Layers that watch, of a model whose layers all have one shape."""
CALL = 10
FLOOR = 1e-4  # added to a channel's variance


class Colours(nn.Module):
    """Images [B, 3, H, W] in [-1, 1] → [B, 3, side, side] in a model's colours.

    Args:
        side: of the images that the model has learned from; None to leave images as they are.
        mean, std: of its colours, in units of [0, 1].
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, side: int | None, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.side = side
        means, deviations = torch.tensor(mean).view(1, 3, 1, 1), torch.tensor(std).view(1, 3, 1, 1)
        self.register_buffer("scale", 0.5 / deviations)
        self.register_buffer("shift", (0.5 - means) / deviations)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.side is not None and x.shape[-1] != self.side:
            x = F.interpolate(x, (self.side, self.side), mode="bilinear", align_corners=False)
        return x * self.scale + self.shift


def read_colours(folder: Path, what: str) -> Colours:
    """Read a preprocessor_config.json; without one images stay as they are.

    Args:
        what: names the model in messages.

    Raises:
        InputError: the file cannot be used.
    """
    path, half = folder / PROCESSOR_NAME, [0.5, 0.5, 0.5]
    if not path.is_file():
        return Colours(None, half, half)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        size: Any = content.get("crop_size") or content.get("size")
        if isinstance(size, dict):
            size = size.get("height", size.get("shortest_edge"))
        mean, std = (list(map(float, content.get(f"image_{name}") or half)) for name in ("mean", "std"))
        if len(mean) != 3 or len(std) != 3 or not all(std) or not (size is None or 1 <= int(size) <= 4096):
            raise ValueError("its values are out of range")
        return Colours(None if size is None else int(size), mean, std)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{what}: {path} cannot be used ({error}); complete the model's folder") from None


@dataclass(frozen=True)
class PublishedModel:
    """A frozen image model in evaluation mode, on one device."""

    model: Any
    colours: Colours

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Features [n, F] of images [n, 3, H, W] in [-1, 1], in bfloat16 where the device has it.

        They are the mean of the last layer's output, and mean and standard deviation of each channel of the last layer
        of every stage but the stem; of a transformer, of LAYERS layers. CALL images at a time, which backward computes
        again: the layers of all images would take 12 GB for 100 images and a network as small as EfficientNet-Lite0.
        """
        see = partial(checkpoint, self._features, use_reentrant=False) if images.requires_grad else self._features
        return torch.cat([see(part) for part in torch.split(images, CALL)])

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        with autocast(images.device):
            out = self.model(pixel_values=self.colours(images), output_hidden_states=True)
        found = [_places(out.last_hidden_state).mean(1)]
        for state in _stages(out.hidden_states):
            variance, mean = torch.var_mean(_places(state), dim=1)
            found += [mean, (variance + FLOOR).sqrt()]
        return torch.cat(found, dim=1)


def _places(state: torch.Tensor) -> torch.Tensor:
    """A map [n, C, h, w], or tokens [n, L, C], as [n, places, C]."""
    return (state.flatten(2).transpose(1, 2) if state.ndim == 4 else state).float()


def _stages(states: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """The last of each run of layers with one shape, without the first, the stem; or LAYERS of one long run."""
    after = [*(state.shape for state in states[1:]), None]
    ends = [state for state, next_shape in zip(states, after, strict=True) if state.shape != next_shape]
    if len(ends) > 2:
        return ends[1:]
    rows = torch.linspace(0, len(states) - 1, LAYERS + 1).round().int().tolist()[1:]
    return [states[i] for i in dict.fromkeys(rows)]


def open_published(source: str, device: torch.device | str = "cpu") -> PublishedModel:
    """Open a model on this machine; of one for images and texts, the part that sees images.

    Args:
        source: its folder, or its id in the local hub cache.

    Raises:
        InputError: not on this machine, no safetensors, or a model that gives no layers of an image.
    """
    from transformers import AutoModel

    folder, what = model_folder(source), f"hf:{source}"
    check_model(folder, source)
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True}
    model, report = opened(
        what,
        lambda: AutoModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, **options),
    )
    missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)  # what is pooled is not looked at
    if missing:
        raise InputError(f"{what}: its weights lack {len(missing)} tensors, first {missing[0]}; use another model")
    model = getattr(model, "vision_model", model).eval().requires_grad_(False).to(device)
    found = PublishedModel(model, read_colours(folder, what).to(device))
    try:
        found.features(torch.zeros((2, 3, 32, 32), device=device))
    except Exception as error:  # models of other things fail in many ways
        raise InputError(
            f"{what}: gives no layers of an image ({first_sentence(error)}); use an image model, with "
            f"{PROCESSOR_NAME} where it takes images of one size"
        ) from None
    return found
