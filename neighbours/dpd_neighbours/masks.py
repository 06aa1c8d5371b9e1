"""Images with masks through a bundle of bands, for segmentation: DIAnet's task, the masks of clouds.

    python -m dpd_neighbours.masks pack IMAGES MASKS --values 0,1,2 --out scenes
    dpd distill scenes --bands all --stretch 0:255 --out site.dpd
    dpd generate site.dpd --format npz --out arrays
    python -m dpd_neighbours.masks unpack arrays/set.npz --values 0,1,2 --out pairs
    python -m dpd_neighbours.masks compare pairs --train IMAGES MASKS --test IMAGES MASKS --values 0,1,2 --numbers 10,50

A mask becomes one band for each of its values, 255 where it has that value, and the highest of these bands decides when
it comes back. A single band would have other values on every edge. A scene set needs classes: an image's is the value
that most of its pixels have. MASKS/NAME.png belongs to IMAGES/NAME.jpg or whatever the image's suffix is.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from PIL import Image

from dpd_runtime.annotations import Images
from dpd_runtime.errors import DataError, DpdError, InputError
from dpd_runtime.images import is_image, middle, open_image, pillow_rgb
from dpd_runtime.text import counted

Masks = npt.NDArray[np.uint8]
"""Numbers of the mask's values [n, H, W], or of one image [H, W]."""
ValuesOption = Annotated[str, typer.Option("--values", help="The values of the masks, with commas between them.")]
OutOption = Annotated[Path, typer.Option("--out", help="Folder that is made.")]
PairOption = tuple[Path, Path]
COLOURS = 3
app = typer.Typer(add_completion=False, help=(__doc__ or "").partition("\n")[0], rich_markup_mode=None)


def mask_values(text: str) -> tuple[int, ...]:
    """Parse `0,1,2`.

    Raises:
        InputError: not two or more different numbers of eight bits.
    """
    parts = [part.strip() for part in text.split(",")]
    values = tuple(int(part) for part in parts if part.isdecimal())
    if len(values) < len(parts) or len({*values}) < max(2, len(values)) or max(values) > 255:
        raise InputError(f"--values {text}: give two or more different numbers of 0 … 255, such as 0,1,2")
    return values


def read_pair(image: Path, masks: Path, values: Sequence[int]) -> tuple[Images, Masks]:
    """An image [H, W, 3] and the numbers of its mask's values [H, W].

    Raises:
        DataError: a damaged file; no mask, one of another size or with other values.
    """
    place = masks / f"{image.stem}.png"
    if not place.is_file():
        raise DataError(f"{image}: has no mask {place}")
    pixels, mask = np.asarray(_rgb(image)), np.asarray(_opened(place))
    if mask.shape != pixels.shape[:2]:
        raise DataError(f"{place}: has the shape {mask.shape}, its image {pixels.shape[:2]}")
    numbers = np.full(mask.shape, len(values), np.uint8)
    for number, value in enumerate(values):
        numbers[mask == value] = number
    if (numbers == len(values)).any():
        raise DataError(f"{place}: has the value {mask[numbers == len(values)][0]}; --values declares {values}")
    return pixels, numbers


def _rgb(path: Path) -> Image.Image:
    """Colours, as every command reads them."""
    try:
        picture = pillow_rgb(path.read_bytes())
    except Exception as error:  # decoders raise almost any type on damaged bytes
        picture = str(error)
    if isinstance(picture, str):
        raise DataError(f"{path}: cannot be read as an image ({picture})")
    return picture


def _opened(path: Path) -> Image.Image:
    try:
        picture = open_image(path.read_bytes())
        picture.load()
    except Exception as error:  # decoders raise almost any type on damaged bytes
        raise DataError(f"{path}: cannot be read as an image ({error})") from None
    return picture


def joined(pixels: Images, mask: Masks, count: int) -> Images:
    """[..., H, W, 3] and the numbers of `count` values [..., H, W] → bands [..., H, W, 3 + count]."""
    bands: Images = (mask[..., None] == np.arange(count)).astype(np.uint8) * 255
    return np.concatenate([pixels, bands], axis=-1)


def parted(bands: Images) -> tuple[Images, Masks]:
    """Bands [..., H, W, 3 + count] → images, and the numbers of the highest bands of the mask."""
    return bands[..., :COLOURS], bands[..., COLOURS:].argmax(axis=-1).astype(np.uint8)


def read_pairs(images: Path, masks: Path, values: Sequence[int], side: int) -> tuple[Images, Masks]:
    """Middle squares, brought to `side` as `dpd train` brings images; masks by the nearest pixel.

    Raises:
        DataError: no images, or as `read_pair`.
    """
    found: list[tuple[Images, Masks]] = []
    for path in listed(images):
        pixels, mask = read_pair(path, masks, values)
        small = middle(Image.fromarray(pixels), side)
        found.append((small, middle(Image.fromarray(mask), side, Image.Resampling.NEAREST)))
    return np.stack([one for one, _ in found]), np.stack([one for _, one in found])


def listed(images: Path) -> list[Path]:
    """The images of a folder, by their names.

    Raises:
        DataError: there are none.
    """
    files = sorted(path for path in images.glob("*") if path.is_file() and is_image(path))
    if not files:
        raise DataError(f"{images}: has no images")
    return files


def mean_iou(truth: Masks, found: Masks, count: int) -> float:
    """Mean intersection over union of the values that occur in either, over all pixels together."""
    pairs = np.bincount(truth.ravel().astype(np.int64) * count + found.ravel(), minlength=count**2).reshape(
        count, count
    )
    union = pairs.sum(0) + pairs.sum(1) - pairs.diagonal()
    return float((pairs.diagonal()[union > 0] / union[union > 0]).mean())


@app.command()
def pack(images: Path, masks: Path, values: ValuesOption, out: OutOption) -> None:
    """Write scenes of bands, one .npz file for each image, in a folder for the value that most of its pixels have."""
    numbers = mask_values(values)
    for path in listed(images):
        pixels, mask = read_pair(path, masks, numbers)
        most = numbers[int(np.bincount(mask.ravel(), minlength=len(numbers)).argmax())]
        place = out / f"mostly_{most}" / f"{path.stem}.npz"
        place.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(place, bands=joined(pixels, mask, len(numbers)))
    typer.echo(f"{counted(len(listed(images)), 'scene')} of {counted(COLOURS + len(numbers), 'band')} in {out}")


@app.command()
def unpack(arrays: Path, values: ValuesOption, out: OutOption) -> None:
    """Write images/ and masks/ of a set that `dpd generate --format npz` made; first the first image of each class."""
    numbers = mask_values(values)
    with np.load(arrays, allow_pickle=False) as archive:
        bands, order = archive["images"], np.lexsort((archive["labels"], archive["index"]))
    if bands.shape[-1] != COLOURS + len(numbers):
        raise InputError(
            f"{arrays}: has {bands.shape[-1]} bands, red, green, blue and --values are {COLOURS + len(numbers)}"
        )
    for kind in ("images", "masks"):
        (out / kind).mkdir(parents=True, exist_ok=True)
    for place, row in enumerate(order):
        pixels, mask = parted(bands[row])
        Image.fromarray(pixels).save(out / "images" / f"{place:05d}.png")
        Image.fromarray(np.array(numbers, np.uint8)[mask]).save(out / "masks" / f"{place:05d}.png")
    typer.echo(f"{counted(len(order), 'image')} and masks in {out}")


@app.command()
def compare(
    pairs: Path,
    values: ValuesOption,
    train: Annotated[PairOption, typer.Option(help="Folders of real images and their masks.")],
    test: Annotated[PairOption, typer.Option(help="Folders of images and masks to test on.")],
    numbers: Annotated[str, typer.Option(help="Images to train on, with commas between them.")] = "10",
    repeats: Annotated[int, typer.Option(min=2, help="Segmenters of each kind.")] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each.")] = 1000,
    side: Annotated[int, typer.Option(help="Side of all images in pixels.")] = 64,
) -> None:
    """Train segmenters on the first pairs of a set and on as many random real ones; print one JSON object."""
    from dpd_eval.statistics import paired_difference
    from dpd_neighbours.segmenter import segment, train_segmenter

    declared = mask_values(values)
    of_set, real, tested = (
        read_pairs(*place, declared, side) for place in ((pairs / "images", pairs / "masks"), train, test)
    )
    result: dict[str, Any] = {}
    for number in [int(part) for part in numbers.split(",")]:
        if number > min(len(of_set[0]), len(real[0])):
            raise InputError(
                f"--numbers {number}: the set has {counted(len(of_set[0]), 'image')}, --train {len(real[0])}"
            )
        scores: dict[str, list[float]] = {"set": [], "random": []}
        for seed in range(repeats):
            rows = np.random.default_rng(seed).permutation(len(real[0]))[:number]
            first = (of_set[0][:number], of_set[1][:number])
            for name, (images, masks) in {"set": first, "random": (real[0][rows], real[1][rows])}.items():
                model = train_segmenter(images, masks, len(declared), steps, seed)
                scores[name].append(100 * mean_iou(tested[1], segment(model, tested[0]), len(declared)))
        interval = paired_difference(scores["set"], scores["random"])
        result[str(number)] = scores | {"difference": [interval.mean, interval.low, interval.high]}
    typer.echo(json.dumps(result, allow_nan=False))


if __name__ == "__main__":
    try:
        app(standalone_mode=True)
    except DpdError as error:
        raise SystemExit(f"masks: {error}") from None
