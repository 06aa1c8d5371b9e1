"""Published image models of transformers: what they see, at the size and in the colours that they have learned from."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dpd_runtime.engines import FLOAT_BYTES
from dpd_runtime.errors import InputError
from dpd_runtime.machine import usable_memory
from dpd_runtime.text import counted
from dpd_train.compute import autocast
from dpd_train.config import HUB, published_watchers
from dpd_train.model_files import (
    CONFIG_NAME,
    OF_TIMM,
    PROCESSOR_NAMES,
    find_model,
    first_sentence,
    image_model,
    is_of_timm,
    read_config,
)
from dpd_train.networks_here import WATCHING, Network, bands_of

PROCESSOR_NAME = PROCESSOR_NAMES[0]
MOST_SIDE = 4096
LAYERS = 4
"""Layers that watch, of a model whose layers all have one shape."""
CALL = 10
FLOOR = 1e-4  # added to a channel's variance
PRODUCTS = 3  # matrices of its features' products that are in memory while a network's statistics are measured


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
    """Read what a processor of transformers, or a config of timm, does with an image; without one images stay as they
    are (`check_colours`).

    Args:
        what: names the model in messages.

    Raises:
        InputError: the file cannot be used, or asks for more than a square side and normalised colours.
    """
    for name in PROCESSOR_NAMES:
        path = folder / name
        if not path.is_file():
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if name != PROCESSOR_NAME:  # of a processor for images and texts
                content = content["image_processor"]
            return Colours(_side(content), *_mean_and_std(content))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{what}: {path} cannot be used ({error}); correct it, or take another model") from None
    config = read_config(folder)
    if is_of_timm(config):
        try:
            said = _as_processor(config[OF_TIMM])
            return Colours(_side(said), *_mean_and_std(said))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{what}: {OF_TIMM} in {folder / CONFIG_NAME} cannot be used ({error}); correct it, or take another "
                "model"
            ) from None
    return Colours(None, [0.5] * 3, [0.5] * 3)


def check_colours(folder: Path, what: str) -> None:
    """Check that somebody says how large a model's images are, and in which colours.

    Raises:
        InputError: nobody does.
    """
    if not is_of_timm(read_config(folder)) and not any((folder / name).is_file() for name in PROCESSOR_NAMES):
        raise InputError(
            f"{what}: {folder} has no {PROCESSOR_NAME} that says how large its images are, and in which colours; "
            "complete the folder: AutoImageProcessor.from_pretrained(ID).save_pretrained(FOLDER)"
        )


def _as_processor(of_timm: dict[str, Any]) -> dict[str, Any]:
    """What a processor's file would say of a model of timm, which names channels, height and width."""
    _, height, width = of_timm["input_size"]
    size = {"size": {"height": height, "width": width}}
    return size | {"image_mean": of_timm["mean"], "image_std": of_timm["std"]}


def _side(content: dict[str, Any]) -> int | None:
    """The side to which images are brought; where the processor crops, the crop's: all of a scene is looked at."""
    cropped = content.get("crop_size") if content.get("do_center_crop", True) else None
    size = cropped or (content.get("size") if content.get("do_resize", True) else None)
    if size is None:
        return None
    named = size if isinstance(size, dict) else {"height": size}
    sides = [named[key] for key in ("height", "width", "shortest_edge") if named.get(key) is not None]
    if len(set(sides)) != 1 or type(sides[0]) is not int or not 1 <= sides[0] <= MOST_SIDE:
        raise ValueError(f"its size {size} is no one side of 1 to {MOST_SIDE} pixels")
    return int(sides[0])


def _mean_and_std(content: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Of each colour, in units of [0, 1]."""
    for name, usual in (("do_flip_channel_order", False), ("do_rescale", True), ("rescale_offset", False)):
        if content.get(name, usual) != usual:
            raise ValueError(f"{name} is {content[name]}, which is not done here")
    if not content.get("do_normalize", True):
        return [0.0] * 3, [1.0] * 3
    mean, std = (content.get(f"image_{name}") or [0.5] * 3 for name in ("mean", "std"))
    for name, values, least in (("image_mean", mean, 0.0), ("image_std", std, 0.01)):
        numbers = isinstance(values, list) and len(values) == 3 and all(type(v) in (int, float) for v in values)
        if not numbers or not all(least <= value <= 1 for value in values):
            raise ValueError(f"{name} is {values}, not three numbers of {least:g} to 1")
    twice = content.get("include_top", "EfficientNet" in str(content.get("image_processor_type")))  # it divides twice
    return mean, [value * value for value in std] if twice else std


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

    @property
    def looks_at_crops(self) -> bool:
        """Whether it takes images of half its side, too, and gives maps of them, as networks of convolutions do."""
        generator = torch.Generator().manual_seed(0)
        drawn = 2 * torch.rand((2, 3, 32, 32), generator=generator).to(self.colours.scale.device) - 1
        try:
            with torch.no_grad():
                return all(state.ndim == 4 for state in self.crops(drawn.shape, generator)(drawn))
        except Exception:  # models that take one size alone say so in many ways
            return False

    def crops(self, shape: torch.Size, generator: torch.Generator) -> Callable[[torch.Tensor], list[torch.Tensor]]:
        """A way to look at images in a training: at one crop of each, at the scale that the model knows.

        An image is enlarged to the model's side, and a square of half that side is shown, which costs a quarter; larger
        images are shown as they are, as their details would go. Images and their copies are cut at the same places.

        shape: of the images, [n, 3, H, H].

        Returns:
            images in [-1, 1] → maps [n, C, h, w] at the end of every stage but the stem, and of the last
            layer.
        """
        side = self.colours.side
        assert side is not None  # every opened model has one
        kept, shown = side // 2, max(side, shape[-1])
        corners = torch.randint(shown - kept + 1, (shape[0], 2), generator=generator).tolist()

        def look(images: torch.Tensor) -> list[torch.Tensor]:
            large = images
            if shown > shape[-1]:
                large = F.interpolate(images, (side, side), mode="bilinear", align_corners=False)
            cut = [x[:, i : i + kept, j : j + kept] for x, (i, j) in zip(large, corners, strict=True)]
            states, last = self._states(torch.stack(cut) * self.colours.scale + self.colours.shift)
            return [*states, last]

        return look

    def _states(self, shown: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """What the stages and the last layer say of images in the model's size and colours."""
        out = self.model(pixel_values=shown, output_hidden_states=True)
        states = _stages(out.hidden_states)
        return states, _channels_first(out.last_hidden_state, states[-1])

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        with autocast(images.device):
            states, last = self._states(self.colours(images))
        found = [_places(last).mean(1)]
        for state in states:
            variance, mean = torch.var_mean(_places(state), dim=1, correction=0)
            found += [mean, (variance + FLOOR).sqrt()]
        return torch.cat(found, dim=1)


def _channels_first(last: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
    """The last layer's map [n, C, h, w]; some models of timm give it as [n, h, w, C], unlike the maps of stages."""
    turned = last.ndim == state.ndim == 4 and last.shape[1] != state.shape[1] == last.shape[-1]
    return last.permute(0, 3, 1, 2) if turned else last


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
        InputError: not on this machine, no safetensors, no file that says how images are shown to it, or a model of
            other images than RGB, or that gives no layers of an image, or other ones each time, or more numbers of an
            image than memory has room for the products of.
    """
    folder, _ = find_model(source)
    what = f"hf:{source}"
    check_rgb(folder, what)
    model, _ = image_model(what, folder)  # what is pooled is not looked at
    model = model.requires_grad_(False).to(device)
    found = PublishedModel(model, read_colours(folder, what).to(device))
    try:
        drawn = 2 * torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(device) - 1
        first, second = found.features(drawn), found.features(drawn)
    except Exception as error:  # models of other things fail in many ways
        raise InputError(
            f"{what}: gives no layers of an image ({first_sentence(error)}); use an image model, with "
            f"{PROCESSOR_NAME} where it takes images of one size"
        ) from None
    if found.colours.side is None:
        raise InputError(
            f"{what}: {folder} has no {PROCESSOR_NAME} that says how large its images are, and in which colours; "
            "complete the folder"
        )
    if not first.isfinite().all() or not torch.allclose(first, second, rtol=1e-3, atol=1e-3):
        fault = "other layers each time" if first.isfinite().all() else "numbers that are not finite"
        raise InputError(f"{what}: gives {fault} for the same image; use another model")
    width, memory = first.shape[1], usable_memory()
    if memory is not None and (needed := PRODUCTS * FLOAT_BYTES * width**2) > memory / 2:
        raise InputError(
            f"{what}: says {width:,} numbers of an image, and their products take {needed / 1e9:.1f} GB, more than "
            f"half of the {memory / 1e9:.1f} GB of memory that this process may use; take a smaller model"
        )
    return found


def check_rgb(folder: Path, what: str) -> None:
    """Check that a model takes images of three bands.

    Raises:
        InputError: it does not.
    """
    if (bands := bands_of(read_config(folder))) != 3:
        raise InputError(
            f"{what}: takes images of {counted(bands, 'band')}, not of red, green and blue; use another model"
        )


def check_crops(source: str) -> None:
    """Check that a model looks at crops of images, before a training rests on it.

    Raises:
        InputError: as `open_published`, and of a model that takes images of one size alone, or gives no maps.
    """
    if not open_published(source).looks_at_crops:
        raise InputError(
            f"{HUB}{source}: does not look at crops of half its side, as networks of convolutions do; use one of "
            "those, such as efficientnet-lite0 (dpd data fetch)"
        )


def decoder_judge(watchers: str) -> str | None:
    """Folder or id of the first published model of `--watchers` that looks at crops, by which a decoder is tuned.

    Raises:
        InputError: as `open_published`.
    """
    return next((source for source in published_watchers(watchers) if open_published(source).looks_at_crops), None)


def tried(networks: tuple[Network, ...]) -> tuple[Network, ...]:
    """The networks, with the fault of those that cannot be opened; as many are tried as watch, and one that judges."""
    found, good = list[Network](), 0
    for network in networks:
        if network.fault is None and good <= WATCHING:
            try:
                open_published(network.name)
                good += 1
            except InputError as error:
                network = replace(network, fault=str(error).partition(": ")[2])
        found.append(network)
    return tuple(found)


def check_published(watchers: str) -> None:
    """Open each published model of `--watchers` before hours of work rest on it.

    Raises:
        InputError: as `open_published`.
    """
    for source in published_watchers(watchers):
        open_published(source)
