"""The captioner `attributes`: measured properties of an image in words of a fixed vocabulary, without a network.

The words describe the image as it is given; of an image that is turned for training, describe the turned one.
Thresholds are fixed (grey levels of 255 at 64 × 64 pixels), chosen so that 10 m satellite tiles fill the bins evenly.
They do not adapt to a data set, because a word must mean the same in every bundle.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from dpd_runtime.annotations import Images, Pixels

SIDE = 64  # images are brought to this size first, so that "fine" does not depend on the resolution
CHUNK = 256

DARK, PALE = 75.0, 112.0  # mean luma
GREY, GREY_BLUE = 0.13, 0.28  # saturation of the mean colour
HUES = (("brown", 50.0), ("olive", 85.0), ("green", 175.0), ("blue-green", 200.0), ("blue", 255.0), ("purple", 320.0))
COLOURS = tuple(
    f"{tone}{colour}"
    for colour in (*(name for name, _ in HUES), "grey", "grey-blue")
    for tone in ("dark ", "", "pale ")
)
TEXTURES = ("smooth", "fine texture", "coarse texture")
ORIENTATIONS = ("horizontal lines", "vertical lines", "diagonal lines")
# In order of precedence, rarer and more specific ones first. An image gets the first two that hold.
STRUCTURES = (
    "a pale line",
    "a dark line",
    "bright spots",
    "high contrast",
    "patchwork",
    "uniform",
    "dense edges",
    "several colours",
    "sparse edges",
)
VOCABULARY: tuple[str, ...] = (*COLOURS, *TEXTURES, *ORIENTATIONS, *STRUCTURES)

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Attributes:
    """What one image looks like, in words of VOCABULARY.

    colour       tone and hue of the mean colour, as "dark green"
    texture      one of TEXTURES
    orientation  one of ORIENTATIONS where one direction prevails, else None
    structure    up to two of STRUCTURES
    """

    colour: str
    texture: str
    orientation: str | None
    structure: tuple[str, ...]

    @property
    def phrases(self) -> tuple[str, ...]:
        """Two to five phrases, in the order of a caption."""
        return (self.colour, self.texture, *([self.orientation] if self.orientation else []), *self.structure)


def describe(image: Pixels) -> Attributes:
    """Attributes of one image, uint8 [H, W, 3].

    Raises:
        ValueError: another shape or type.
    """
    return _describe_chunk(_checked(image[None] if image.ndim == 3 else image, 1))[0]


def phrases(image: Pixels) -> tuple[str, ...]:
    """The phrases of one image, uint8 [H, W, 3]."""
    return describe(image).phrases


def describe_many(images: Images) -> list[tuple[str, ...]]:
    """The phrases of each image of uint8 [n, H, W, 3]; about 1 ms per image of 64 pixels."""
    _checked(images, None)
    chunks = (images[start : start + CHUNK] for start in range(0, len(images), CHUNK))
    return [words.phrases for chunk in chunks for words in _describe_chunk(chunk)]


def class_words(name: str) -> str:
    """A class name as a person would write it: "AnnualCrop", "annual_crop" → "annual crop"."""
    spaced = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1 \2", re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name))
    return " ".join(re.sub(r"[\W_]+", " ", spaced).split()).lower() or name


def caption(class_name: str, phrases: Sequence[str]) -> str:
    """The prompt: "a satellite image of annual crop, pale brown, coarse texture"."""
    return ", ".join((f"a satellite image of {class_words(class_name)}", *phrases))


def aggregate(captions: Sequence[tuple[str, ...]], min_share: float = 0.5, min_count: int = 1) -> tuple[str, ...]:
    """Phrases that at least `min_count` images and at least the share `min_share` of them have.

    Most frequent first, ties alphabetical. With min_count > 1 no phrase rests on a single private image.
    """
    counts = Counter(chain.from_iterable(set(words) for words in captions))
    # The share is compared as a count, so that rounding does not make 0.1 · 30 require 4 of 30.
    least = max(min_count, min_share * len(captions) - 1e-9)
    return tuple(sorted((word for word in counts if counts[word] >= least), key=lambda word: (-counts[word], word)))


def _checked(images: Images, count: int | None) -> Images:
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or (count and len(images) != count):
        wanted = "[H, W, 3]" if count else "[n, H, W, 3]"
        raise ValueError(f"images are {images.dtype} {list(images.shape)}; uint8 {wanted} is needed")
    return images


def _describe_chunk(images: Images) -> list[Attributes]:
    rgb = _standard_size(images).astype(np.float32)
    luma = rgb @ np.array([0.299, 0.587, 0.114], np.float32)
    mean_luma = luma.mean((1, 2))
    colours = _colour_words(rgb.mean((1, 2)), mean_luma)

    # Interior pixels and symmetric differences give a turned image the same numbers.
    gx = (luma[:, 1:-1, 2:] - luma[:, 1:-1, :-2]) / 2
    gy = (luma[:, 2:, 1:-1] - luma[:, :-2, 1:-1]) / 2
    gradient = np.hypot(gx, gy)
    activity, edges = gradient.mean((1, 2)), (gradient > 8).mean((1, 2))

    blocks = rgb.reshape(-1, 8, SIDE // 8, 8, SIDE // 8, 3).mean((2, 4))
    patches = luma.reshape(-1, 8, SIDE // 8, 8, SIDE // 8).mean((2, 4)).std((1, 2))
    fineness = activity / (patches + 2)
    red, green, blue = np.moveaxis(blocks, -1, 0)
    spread = np.hypot((red - blue).std((1, 2)), (green - (red + blue) / 2).std((1, 2)))
    ridges, valleys = luma - _opened(luma), -luma - _opened(-luma)
    # Also above the mean: the ground between dark spots is brighter than they are, but no bright spot.
    bright = ((ridges > 40) & (luma > mean_luma[:, None, None] + 30)).mean((1, 2))

    textures = np.select([activity < 3, fineness >= 0.5], TEXTURES[:2], TEXTURES[2])
    holds = {
        "a pale line": _has_line(ridges),
        "a dark line": _has_line(valleys),
        "bright spots": bright > 0.04,
        "high contrast": luma.std((1, 2)) > 28,
        "patchwork": (patches > 8) & (fineness < 0.45),
        "uniform": (patches < 3) & (activity < 2.5),
        "dense edges": edges > 0.4,
        "several colours": spread > 10,
        "sparse edges": (edges > 0.02) & (edges < 0.15),
    }
    orientations = _orientation_words(gx, gy)
    return [
        Attributes(
            colours[i],
            str(textures[i]),
            orientations[i],
            tuple(word for word in STRUCTURES if holds[word][i])[:2],
        )
        for i in range(len(images))
    ]


def _standard_size(images: Images) -> Images:
    if images.shape[1:3] == (SIDE, SIDE):
        return images
    how = Image.Resampling.BOX if min(images.shape[1:3]) >= SIDE else Image.Resampling.BICUBIC
    return np.stack([np.asarray(Image.fromarray(image).resize((SIDE, SIDE), how)) for image in images])


def _colour_words(means: Floats, luma: Floats) -> list[str]:
    words = []
    for (red, green, blue), brightness in zip(means.tolist(), luma.tolist(), strict=True):
        high, low = max(red, green, blue), min(red, green, blue)
        saturation = (high - low) / max(high, 1.0)
        hue = _hue(red, green, blue, high, max(high - low, 1e-6))
        name = next((name for name, end in HUES if hue < end), "brown")
        if saturation < GREY:
            name = "grey"
        elif name == "blue" and saturation < GREY_BLUE:
            name = "grey-blue"
        tone = "dark " if brightness < DARK else "pale " if brightness > PALE else ""
        words.append(tone + name)
    return words


def _hue(red: float, green: float, blue: float, high: float, chroma: float) -> float:
    """Hue in degrees: 0 red, 120 green, 240 blue."""
    if high == red:
        return 60 * ((green - blue) / chroma % 6)
    if high == green:
        return 60 * ((blue - red) / chroma + 2)
    return 60 * ((red - green) / chroma + 4)


def _orientation_words(gx: Floats, gy: Floats) -> list[str | None]:
    """The prevailing direction by the structure tensor; None if its coherence is below a quarter."""
    xx, yy, xy = (product.mean((1, 2)) for product in (gx * gx, gy * gy, gx * gy))
    # With the constant, sensor noise on calm water does not count as lines.
    coherence = np.hypot(xx - yy, 2 * xy) / (xx + yy + 4)
    # The angle of the gradient; lines are at right angles to it.
    across = np.abs(np.degrees(np.arctan2(2 * xy, xx - yy)) / 2)
    words = np.select([across < 22.5, across > 67.5], ["vertical lines", "horizontal lines"], "diagonal lines")
    return [str(word) if strong else None for word, strong in zip(words, coherence > 0.25, strict=True)]


def _has_line(ridges: Floats) -> npt.NDArray[np.bool_]:
    """Whether the strongest ridges [n, S, S] lie along one line, close to their common axis."""
    strongest = np.percentile(ridges.reshape(len(ridges), -1), 98, axis=1)
    mask = (ridges > np.maximum(12, 0.6 * strongest)[:, None, None]).astype(np.float32)
    share, weight = mask.mean((1, 2)), mask.sum((1, 2)) + 1e-6
    steps = np.arange(SIDE, dtype=np.float32) - (SIDE - 1) / 2
    rows, columns = mask.sum(2), mask.sum(1)
    y, x = rows @ steps / weight, columns @ steps / weight
    yy, xx = rows @ steps**2 / weight - y**2, columns @ steps**2 / weight - x**2
    xy = np.einsum("nyx,y,x->n", mask, steps, steps) / weight - x * y
    half, split = (xx + yy) / 2, np.hypot(xx - yy, 2 * xy) / 2
    width, length = np.sqrt(np.maximum(half - split, 0) + 1), np.sqrt(half + split + 1)
    has_line: npt.NDArray[np.bool_] = (share > 0.02) & (width < 10) & (length > 12)
    return has_line


def _opened(luma: Floats) -> Floats:
    """Grey opening by 9 × 9: the image without bright details narrower than 9 pixels."""
    return _extreme(_extreme(luma, np.minimum), np.maximum)


def _extreme(planes: Floats, pick: Callable[[Floats, Floats], Floats]) -> Floats:
    """Minimum or maximum over 9 × 9 windows, [n, S, S]."""
    for axis in (1, 2):
        widths = [(0, 0)] * 3
        widths[axis] = (4, 4)
        window = np.moveaxis(np.pad(planes, widths, mode="edge"), axis, 0)
        for shift in (1, 2, 4, 1):  # windows of 2, 4, 8 and 9, each from the one before
            window = pick(window[:-shift], window[shift:])
        planes = np.moveaxis(window, 0, axis)
    return planes
