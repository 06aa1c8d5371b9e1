"""Phrases about an image: what is measured, the words there are, and answers of models."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from dpd_runtime.annotations import Images, Pixels

if TYPE_CHECKING:
    import torch


# -- The captioner `attributes`: measured properties of an image in words of a fixed vocabulary, without a network.
#
# The words describe the image as it is given; of an image that is turned for training, describe the turned one.
# Thresholds are fixed (grey levels of 255 at 64 × 64 pixels), chosen so that 10 m satellite tiles fill the bins evenly.
# They do not adapt to a data set, because a word must mean the same in every bundle.


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


# -- The fixed phrases that `clip:ID` chooses from: land use, and the words that `attributes` measures.


LAND_USE = (
    "crop fields",
    "meadow",
    "pasture",
    "orchard",
    "vineyard",
    "terraces",
    "greenhouses",
    "dense forest",
    "sparse trees",
    "bushes",
    "bare land",
    "desert",
    "sand",
    "rock",
    "mountains",
    "snow",
    "clouds",
    "sea",
    "lake",
    "river",
    "pond",
    "wetland",
    "beach",
    "island",
    "dense houses",
    "sparse houses",
    "tall buildings",
    "large roofs",
    "mobile homes",
    "storage tanks",
    "solar panels",
    "power plant",
    "church",
    "school",
    "parking lot",
    "cars",
    "road",
    "road intersection",
    "freeway",
    "overpass",
    "roundabout",
    "bridge",
    "railway",
    "runway",
    "airplanes",
    "harbor with boats",
    "ships",
    "sports field",
    "baseball diamond",
    "tennis court",
    "basketball court",
    "stadium",
    "golf course",
    "swimming pool",
    "cemetery",
    "park",
    "dam",
    "quarry",
    "construction site",
)


@dataclass(frozen=True)
class Group:
    """Phrases that compete with each other: their probabilities sum to one.

    Args:
        template: the sentence that CLIP reads, with {} for the phrase.
        most: largest number of phrases that an image gets from this group.
    """

    template: str
    phrases: tuple[str, ...]
    most: int


# In the order of a caption: if a tokenizer is too short, the last phrases are dropped first.
GROUPS = (
    Group("a satellite photo of {}.", LAND_USE, 2),
    Group("a satellite photo in which the ground is mostly {}.", COLOURS, 1),
    Group("a satellite photo with {}.", TEXTURES, 1),
    Group("a satellite photo with {}.", ORIENTATIONS, 1),
    Group("a satellite photo with {}.", STRUCTURES, 2),
)


# -- The common form of captioners: an identity for stored phrases, and a function that is loaded when needed.


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


# -- Turn the answer of a vision-language model into clean phrases that other images can share.


FORMAT = 1  # raise it if the same answer gives other phrases, so that stored ones are made again
MAX_PHRASES = 8
MAX_WORDS = 4
MAX_LETTERS = 40

INSTRUCTION = (
    f"Describe this satellite image with at most {MAX_PHRASES} short phrases of one to {MAX_WORDS} words each, "
    "separated by commas: land cover, land use, objects, their density and arrangement, colours, texture. Name only "
    "what can be seen. Write no sentences, no place names, no numbers and no positions such as left, top or centre."
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_LEADING = _words("a an the and or with of in on some several there is are it this image photo picture shows showing")
# A text encoder reads "no roads" as roads.
_NEGATIONS = _words("no not none without unknown unclear unidentifiable")
# Training turns and mirrors images, so positions do not hold.
_POSITIONS = _words(
    "left right top bottom upper lower north south east west northern southern eastern western "
    "northeast northwest southeast southwest corner corners center centre middle background foreground"
)
LONGEST_ANSWER = 10_000  # letters that are read, far more than MAX_PHRASES phrases need
_STOCK = re.compile(r"(?:satellite|aerial|overhead|bird's[- ]eye) (?:image|imagery|photo|photograph|picture|view)\b")
_PHRASE = re.compile(r"[a-z]+(?:[ '-][a-z]+)*")


def parse(answer: str) -> tuple[str, ...]:
    """At most MAX_PHRASES phrases of lower-case words, in the order of the answer, each once.

    Phrases are left out if they have digits or other signs, more than MAX_WORDS words or MAX_LETTERS letters, a
    negation or a position, or if they only say that this is a satellite image.
    """
    text = unicodedata.normalize("NFKC", answer.rpartition("</think>")[2][:LONGEST_ANSWER]).lower().replace("’", "'")
    text = re.sub(r"[^,;.\n:]*:", "", text)  # labels, as "land cover:"
    phrases: dict[str, None] = {}
    for piece in re.split(r"[,;.!?|/()\[\]\n•]+", text):
        words = _content(re.sub(r"[*_`\"#]+", " ", piece).strip(" \t-'").split())
        phrase = " ".join(words)
        if _PHRASE.fullmatch(phrase) and len(words) <= MAX_WORDS and len(phrase) <= MAX_LETTERS and _usable(words):
            phrases[phrase] = None
    return tuple(phrases)[:MAX_PHRASES]


def _content(words: list[str]) -> list[str]:
    """The words without introductory ones such as "this is a satellite image of"."""
    while words:
        stock = _STOCK.match(" ".join(words))
        skip = len(stock[0].split()) if stock else int(words[0] in _LEADING)
        if not skip:
            break
        words = words[skip:]
    return words


def _usable(words: list[str]) -> bool:
    parts = {part for word in words for part in word.split("-")}
    return not parts & (_NEGATIONS | _POSITIONS)
