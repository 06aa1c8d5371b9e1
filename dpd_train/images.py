"""Reads labelled scene folders: one folder a class, train/ val/ test/ around the classes or not (DESIGN §4, §11)."""

import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError

from dpd_runtime.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
# Only these decoders are let near a file, whatever its name says: EPS, for one, would start Ghostscript.
DECODERS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")

Part = Literal["train", "val", "test", "all"]


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 [n, H, W, 3] → float32 [n, 3, H, W] in [-1, 1]."""
    return images.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1.0)


@dataclass(frozen=True)
class Rejected:
    """A file with an image's name that could not be used: path relative to the data folder, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class SceneSet:
    """Images of one part, ordered by class and then by file name.

    classes  names, sorted as strings; labels index them
    images   uint8 [n, H, W, 3], RGB, square
    labels   int64 [n]
    hashes   sha256 (hex) of each file's bytes, n of them
    rejected files that were left out
    """

    classes: tuple[str, ...]
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    hashes: tuple[str, ...]
    rejected: tuple[Rejected, ...]


def read_scenes(root: Path, *, part: Part, resolution: int | None = None, val_per_class: int | None = None) -> SceneSet:
    """Reads one part of a class-per-folder tree; every image is centre-cropped to a square and resized (Lanczos).

    root          holds the class folders, or train/ (and val/, test/) which hold them.
    part          "val" is val/ where that exists, else for each class the last N file names (sorted as strings) of the
                  training images, which are then not in "train". "test" is test/. "all" is every image under root.
    resolution    side of the images in pixels; None takes the shorter side of the most common size, measured on the
                  training images so that all parts come out alike.
    val_per_class N; None takes max(1, n // 10) of a class with n files. An error where val/ decides.

    Files are split by name before any is opened, so that a damaged one never moves another to a different part.
    Damaged and unusable files are listed in `rejected`; files without an image suffix and hidden ones are passed over.
    Raises DataError: nothing at root, no images, fewer than two classes, an empty class, a part that is not there,
    train/ and this part with different classes, fewer than 2 usable training images (1 in other parts) in a class.
    """
    if resolution is not None and resolution < 1:
        raise DataError(f"resolution is {resolution}: give a positive number of pixels")
    if val_per_class is not None and val_per_class < 0:
        raise DataError(f"validation images per class is {val_per_class}: give 0 or more")
    root = Path(root)
    trees, reference = _trees(root)
    files = _files_of_part(root, trees, reference, part, val_per_class)
    if resolution is None:
        resolution = _common_side([path for paths in reference.values() for path in paths], root)

    classes = tuple(reference)
    images, labels, hashes, rejected = [], [], [], []
    least = 2 if part == "train" else 1
    for label, name in enumerate(classes):
        used = 0
        for path in files[name]:
            content, pixels = _read(path, resolution)
            if isinstance(pixels, str):
                rejected.append(Rejected(_printable(path.relative_to(root)), pixels))
                continue
            images.append(pixels)
            labels.append(label)
            hashes.append(hashlib.sha256(content).hexdigest())
            used += 1
        if used < least:
            raise DataError(_too_few(root, part, name, used, least, rejected))
    return SceneSet(classes, np.stack(images), np.array(labels, np.int64), tuple(hashes), tuple(rejected))


def fingerprint(scenes: SceneSet) -> dict[str, object]:
    """What run.json may say about the data: {"images": n, "classes": {name: count}, "sha256": hex}, no file names.

    sha256 is over the sorted content hashes, one a line, and so does not depend on names, folders or order.
    """
    counts = np.bincount(scenes.labels, minlength=len(scenes.classes))
    return {
        "images": len(scenes.labels),
        "classes": {name: int(count) for name, count in zip(scenes.classes, counts, strict=True)},
        "sha256": hashlib.sha256("\n".join(sorted(scenes.hashes)).encode()).hexdigest(),
    }


def natural_side(root: Path) -> int:
    """Shorter side in pixels of the most common size among the training images, from their headers.

    Raises:
        DataError: as `read_scenes` does.
    """
    _, reference = _trees(root)
    return _common_side([path for paths in reference.values() for path in paths], root)


def split_folders(root: Path) -> tuple[str, ...]:
    """Which of train, val, test are parts of `root` and not classes of that name."""
    return tuple(name for name in ("train", "val", "test") if _holds_folders(root / name))


def _trees(root: Path) -> tuple[dict[str, Path], dict[str, list[Path]]]:
    """The parts under `root` by name, and the files of the part that names the classes: train/ where there is one."""
    if not root.exists():
        raise DataError(f"{root}: no such folder; give a folder that holds one folder of images per class")
    if not root.is_dir():
        raise DataError(f"{root}: is a file; give a folder that holds one folder of images per class")

    trees = {name: root / name for name in split_folders(root)}
    return trees, _class_files(trees.get("train", root if not trees else next(iter(trees.values()))))


def _holds_folders(folder: Path) -> bool:
    """Whether a folder called train, val or test is a part. One with images directly inside is a class of that name."""
    return folder.is_dir() and any(_is_class_folder(entry) for entry in folder.iterdir())


def _is_class_folder(entry: Path) -> bool:
    return entry.is_dir() and not entry.name.startswith((".", "__"))


def _class_files(tree: Path) -> dict[str, list[Path]]:
    """The image files of each class, both sorted as strings."""
    folders = sorted((entry for entry in tree.iterdir() if _is_class_folder(entry)), key=lambda entry: entry.name)
    if not folders:
        raise DataError(f"{tree}: holds no class folders; put each class's images into a folder with the class's name")
    found: dict[str, list[Path]] = {}
    for folder in folders:
        if _printable(folder.name) != folder.name:
            raise DataError(f"{_printable(folder)}: the class name is not UTF-8; rename the folder")
        found[folder.name] = sorted(
            (
                path
                for path in folder.iterdir()
                if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not path.is_dir()
            ),
            key=lambda path: path.name,
        )
        if not found[folder.name]:
            raise DataError(
                f"{folder}: class {folder.name!r} has no images ({' '.join(sorted(SUFFIXES))}) directly inside; "
                "add some or remove the folder"
            )
    if len(found) < 2:
        raise DataError(f"{tree}: holds one class only ({folders[0].name!r}); at least two class folders are needed")
    return found


def _files_of_part(
    root: Path,
    trees: dict[str, Path],
    reference: dict[str, list[Path]],
    part: Part,
    val_per_class: int | None,
) -> dict[str, list[Path]]:
    if part == "all":
        parts = [_same_classes(tree, reference) for tree in trees.values()] or [reference]
        return {name: [path for files in parts for path in files[name]] for name in reference}
    if part == "test" or (part == "val" and "val" in trees):
        if part not in trees:
            raise DataError(f"{root}: has no {part}/ with class folders; give the folder of the {part} images itself")
        if part == "val" and val_per_class is not None:
            raise DataError(_val_decides(root))
        return _same_classes(trees[part], reference)
    if trees and "train" not in trees:
        raise DataError(
            f"{root}: has {', '.join(f'{name}/' for name in trees)} but no train/ with class folders; add it"
        )
    if "val" in trees:
        if val_per_class is not None:
            raise DataError(_val_decides(root))
        return reference
    chosen: dict[str, list[Path]] = {}
    for name, paths in reference.items():
        held_out = max(1, len(paths) // 10) if val_per_class is None else val_per_class
        cut = max(0, len(paths) - held_out)
        chosen[name] = paths[:cut] if part == "train" else paths[cut:]
    return chosen


def _val_decides(root: Path) -> str:
    return f"{root}: holds val/, so a number of validation images per class has no effect; leave it out or remove val/"


def _same_classes(tree: Path, reference: dict[str, list[Path]]) -> dict[str, list[Path]]:
    """Labels are positions in the class list, so a part with other classes would be mislabelled without a word."""
    files = _class_files(tree)
    missing, extra = sorted(reference.keys() - files.keys()), sorted(files.keys() - reference.keys())
    if missing or extra:
        say = "; ".join(
            f"{verb} {', '.join(names)}" for verb, names in (("lacks", missing), ("has in addition", extra)) if names
        )
        raise DataError(f"{tree}: its classes are not those of the other parts: {say}; make the class folders equal")
    return files


def _too_few(root: Path, part: Part, name: str, used: int, least: int, rejected: Sequence[Rejected]) -> str:
    place = f"{root}: class {name!r} has {used} usable image{'' if used == 1 else 's'} in part {part!r}"
    mine = [entry for entry in rejected if Path(entry.path).parent.name == name]
    because = f" ({len(mine)} rejected, first {mine[0].path}: {mine[0].reason})" if mine else ""
    way_out = "add images" + {"train": " or hold out fewer for validation", "val": " or hold out more"}.get(part, "")
    return f"{place}{because}, at least {least} needed; {way_out}"


def _common_side(paths: Sequence[Path], root: Path) -> int:
    """Shorter side of the most common size; of equally common ones the smallest."""
    sizes: Counter[tuple[int, int]] = Counter()
    for path in paths:
        try:
            with Image.open(path, formats=DECODERS) as image:
                sizes[image.size] += 1
        except Exception:  # reported with its reason when the file itself is read
            continue
    if not sizes:
        raise DataError(f"{root}: none of its {len(paths)} image files can be opened; are they images?")
    most = max(sizes.values())
    return min(min(size) for size, count in sizes.items() if count == most)


def _read(path: Path, resolution: int) -> tuple[bytes, npt.NDArray[np.uint8] | str]:
    """The file's bytes, and its pixels uint8 [resolution, resolution, 3] or the reason why there are none."""
    content = b""
    try:
        if path.exists() and not path.is_file():  # a pipe or device would block for ever
            return content, "not a regular file"
        content = path.read_bytes()
        if not content:
            return content, "empty file"
        with Image.open(io.BytesIO(content), formats=DECODERS) as image:
            rgb = _to_rgb(image)
        if isinstance(rgb, str):
            return content, rgb
        side = min(rgb.size)
        left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
        square = rgb.crop((left, top, left + side, top + side))
        if side != resolution:
            square = square.resize((resolution, resolution), Image.Resampling.LANCZOS)
        return content, np.asarray(square, np.uint8)
    except Exception as error:  # decoders raise almost any type on damaged bytes; one bad file must not end a run
        return content, _reason(error)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"not readable as any of {', '.join(DECODERS)}"
    if isinstance(error, FileNotFoundError):
        return "broken link"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, Image.DecompressionBombError):
        return "too many pixels for one image; cut it into tiles"
    return f"damaged or unsupported: {' '.join(str(error).split()) or type(error).__name__}"


def _to_rgb(image: Image.Image) -> Image.Image | str:
    """RGB, 8 bits; or the reason why there is no meaningful conversion."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # an MPO is a camera's JPEG with previews behind the picture
        return f"animated or multi-page: {frames} frames; save the wanted one as its own file"
    image.load()
    if image.mode.startswith("I"):
        return _from_16_bit(np.asarray(image))
    if image.mode == "F":
        return "floating-point pixels have no known range; convert to 8 bits"
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        with_alpha = image.convert("RGBA")
        if with_alpha.getchannel("A").getextrema() == (0, 0):
            return "fully transparent"
        # Black is what aerial tiles have where there is no data; what lies under transparency is arbitrary.
        return Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), with_alpha).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(values: npt.NDArray[np.integer]) -> Image.Image | str:
    """The full range 0…65535 becomes 0…255: a stretch of each image by itself would undo brightness between classes."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        return f"integer pixels from {low} to {high} have no known range; convert to 8 bits"
    if high < 4096:
        return f"16-bit grey with values up to {high} only would turn almost black; convert to 8 bits"
    return Image.fromarray(np.rint(values / 257.0).astype(np.uint8)).convert("RGB")


def _printable(path: Path | str) -> str:
    """File names are bytes: one that is not UTF-8 would break the report it is written to."""
    return str(path).encode("utf-8", "backslashreplace").decode()
