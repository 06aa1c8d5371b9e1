"""What a run of `dpd train` checks before PyTorch is imported: paths, names, counts, and the size of the images."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from dpd_runtime.bundle.classes import check_class_name
from dpd_runtime.bundle.names import equal_names
from dpd_runtime.errors import BundleError, DataError, InputError
from dpd_runtime.files import check_writable
from dpd_train.bases.folder import base_folder, base_sides, check_base
from dpd_train.captions.captioners import check_captioner_source
from dpd_train.config import TrainConfig
from dpd_train.foreground.cropping import check_segmenter
from dpd_train.images import Part, check_files, common_size, parse_reading
from dpd_train.images.rasters import require_rasterio
from dpd_train.run.folder import check_run_folder

PARTS: tuple[Part, Part] = ("train", "val")


def check_inputs(data: Path | None, out: Path, config: TrainConfig, *, resume: bool = False) -> None:
    """Check all that needs no network and no pixel, in less than a second.

    Args:
        data: None for a federated server without images.

    Raises:
        DataError, InputError: as `dpd_train.train.train`.
    """
    check_run_folder(out, resume)
    check_writable(out)
    check_captioner_source(config.captioner)
    check_segmenter(config.segmenter)
    folder = base_folder(config.base)
    check_base(config.base, folder)
    if sides := base_sides(config.base, folder):
        working_side(config.base, *sides, config.resolution)
    reading = parse_reading(config.bands, config.stretch)
    if not reading.plain:
        require_rasterio()
    if data is not None:
        counts, _ = (check_files(data, part, config.val_per_class) for part in PARTS)
        check_classes(data, tuple(counts))
        if config.prototypes == "matched" and not config.prune:
            check_matched_counts(counts, config.k_min)


def check_matched_counts(counts: Mapping[str, int], k_min: int) -> None:
    """Check that codes can be matched to every class.

    Args:
        counts: class → number of training images.

    Raises:
        DataError: a class has fewer images than `k_min`.
    """
    for name, images in counts.items():
        if images < k_min:
            raise DataError(
                f"class {name!r} has {images} different training images, and --prototypes matched needs at least "
                f"--k-min {k_min} in each: add images, or lower --k-min"
            )


def check_classes(data: Path, names: Sequence[str]) -> None:
    """Check that a bundle can have classes with these names.

    Raises:
        DataError: it cannot.
    """
    for name in names:
        try:
            check_class_name(name)
        except BundleError as error:
            raise DataError(f"{data}: class folder {name!r} cannot be a class of a bundle; rename it") from error
    equal = equal_names(names)
    if equal is not None:
        raise DataError(f"{data}: classes {equal[0]!r} and {equal[1]!r} are one folder on some systems; rename one")


def working_side(name: str, native: int, multiple: int, wanted: int | None) -> int:
    """Side in pixels that a run works at: `wanted`, or else the base's own.

    Args:
        name: of the base, for messages. native: side that it makes. multiple: of sides that its networks take.
        wanted: `--resolution`.

    Raises:
        InputError: a side that the base's networks cannot take.
    """
    if wanted is None:
        return native
    if wanted % multiple:
        raise InputError(f"--resolution {wanted}: base {name!r} takes multiples of {multiple} px")
    return wanted


def resizing(sizes: Counter[tuple[int, int]], side: int, base: str) -> str | None:
    """Say that images are brought to the side of the base `base`; None if all of them have it.

    Args:
        sizes: number of images of each (width, height), at least one.
    """
    if set(sizes) == {(side, side)}:
        return None
    width, height = common_size(sizes)
    others = len(sizes) - 1
    more = f" and {others} other size{'s' * (others > 1)}" if others else ""
    square = "" if all(w == h for w, h in sizes) else "cut to their middle square and "
    return (
        f"images of {width} x {height}{more} are {square}resized to {side} x {side}, the size of base {base}; "
        "--resolution asks for another"
    )
