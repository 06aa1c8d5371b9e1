"""Read a distilled set: its dataset.json, and pictures of each class."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from dpd_eval.bands import bands_of_set, shown
from dpd_eval.reading import convert, parse_json, read_file
from dpd_eval.report.names import hide_all_paths, hide_paths
from dpd_eval.report.pictures import Picture, class_sheet
from dpd_runtime.bundle.manifest import parse_sampler
from dpd_runtime.dataset.formats import PNG
from dpd_runtime.dataset.formats.imagefolder import IMAGEFOLDER
from dpd_runtime.dataset.state import DATASET_NAME, METADATA_NAME
from dpd_runtime.errors import DataError
from dpd_runtime.files import is_safe_name
from dpd_runtime.images.bands import Band, picture
from dpd_runtime.images.pictures import read_pixels
from dpd_runtime.images.pixels import read_square, size_in_header
from dpd_runtime.sampling.sampler import Sampler
from dpd_runtime.strict_json import loads
from dpd_runtime.text import counted
from dpd_train.images import SUFFIXES, Rendering
from dpd_train.images.rasters import require_rasterio
from dpd_train.images.rendering import reader

SHOWN = 10


@dataclass(frozen=True)
class ClassSheet:
    """A class of a set. margin: median logit margin of its images. prompts: of the images shown, each once."""

    name: str
    count: int
    shown: int
    picture: Picture | None
    prototypes: int
    margin: float | None
    prompts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SetRecord:
    """What the page shows of dataset.json, and of the images.

    Args:
        watchers: as `dpd_eval.set_file.SetFile` has them.
        real_images: chosen by `dpd select`, so private.
    """

    name: str
    set_hash: str = ""
    bundle_hash: str | None = None
    bundle_name: str | None = None
    signature: str | None = None
    audit: str | None = None
    seed: int | None = None
    ipc: int | None = None
    images: int | None = None
    counts: dict[str, int] = field(default_factory=dict)
    provider: str | None = None
    made_with: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    cpu_flags: tuple[str, ...] = ()
    watchers: tuple[str, ...] | None = None
    real_images: bool = False
    method: str | None = None
    extractor: str | None = None
    resolution: int | None = None
    format: str = IMAGEFOLDER.name
    image_format: str = PNG.name
    soft_labels: bool = False
    bands: tuple[Band, ...] = ()
    sampler: Sampler | None = None
    classes: tuple[ClassSheet, ...] = ()

    @property
    def shown(self) -> str:
        """How many bands there are and which of them people see; empty for RGB."""
        return f"{counted(len(self.bands), 'band')}, shown by {shown(self.bands)}" if self.bands else ""


def read_set(folder: Path, name: str) -> SetRecord:
    """Read a distilled set.

    Raises:
        InputError: dataset.json is damaged.
        MissingExtraError: a set of other bands than RGB, without rasterio.
        DataError: an image that dataset.json counts is missing or damaged.
    """
    where = str(folder / DATASET_NAME)
    content = parse_json(read_file(folder / DATASET_NAME), where)
    record = convert(hide_all_paths({**content, "name": name, "sampler": None, "classes": []}), SetRecord, where)
    # sets of `dpd select` (real_images) are private data and are not shown; a packed set has no image files
    pictured = not record.real_images and record.format == IMAGEFOLDER.name
    records = _metadata(folder / METADATA_NAME)
    bands = bands_of_set(folder) or () if pictured else ()
    if bands:
        require_rasterio()
    sheets = tuple(_class_sheet(folder, c, n, records, pictured, bands) for c, n in content.get("counts", {}).items())
    sampler = record.made_with.get("sampler")
    return replace(record, classes=sheets, sampler=parse_sampler(sampler) if isinstance(sampler, dict) else None)


def _metadata(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Read the lines of metadata.jsonl by class; none if the file is missing."""
    if not path.is_file():
        return {}
    by_class: dict[str, list[dict[str, Any]]] = {}
    for number, line in enumerate(read_file(path).decode("utf-8", "replace").splitlines(), 1):
        try:
            record = loads(line)
            by_class.setdefault(str(record["class"]), []).append(record)
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{path}: line {number} is damaged; run the command that made the set again") from None
    return by_class


def _class_sheet(
    folder: Path,
    name: str,
    count: int,
    records: Mapping[str, list[dict[str, Any]]],
    pictured: bool,
    bands: tuple[Band, ...],
) -> ClassSheet:
    own = records.get(name, [])
    margins = [r["margin"] for r in own if isinstance(r.get("margin"), int | float)]
    prompts = dict.fromkeys(hide_paths(str(r["prompt"])) for r in own[:SHOWN] if r.get("prompt"))
    pixels = [_pixels(path, bands) for path in _files(folder, name)] if pictured else []
    return ClassSheet(
        name=hide_paths(name),
        count=count,
        shown=len(pixels),
        picture=class_sheet(pixels) if pixels else None,
        prototypes=len({r["prototype"] for r in own if isinstance(r.get("prototype"), int)}),
        margin=median(margins) if margins else None,
        prompts=tuple(prompts),
    )


def _files(folder: Path, class_name: str) -> list[Path]:
    """List the first images of a class by file name; links that leave the set's folder are ignored."""
    inside = (folder / class_name).resolve() if is_safe_name(class_name) else folder
    if inside.parent != folder.resolve():
        raise DataError(f"{folder / DATASET_NAME}: class {class_name!r} is not a folder of the set; generate it again")
    files = [path for path in sorted(inside.glob("*")) if path.suffix.lower() in SUFFIXES]
    if not files:
        raise DataError(
            f"{folder / class_name}: contains no images although dataset.json counts some; generate it again"
        )
    return [path for path in files[:SHOWN] if path.resolve().parent == inside]


def _pixels(path: Path, bands: tuple[Band, ...]) -> Any:
    pixels = _of_bands(path, bands) if bands else read_pixels(path)
    if pixels is None:
        raise DataError(f"{path}: cannot be read as an image; run the same dpd generate again to repair the set")
    return pixels


def _of_bands(path: Path, bands: tuple[Band, ...]) -> Any:
    """What people see of a GeoTIFF with physical values of these bands; None if it cannot be read."""
    size, as_set = size_in_header(path), Rendering(None, None, carried=bands, decibels=bands[0].decibels).of_sets
    square = "" if size is None else read_square(path, min(size), reader(as_set))
    return None if isinstance(square, str) else picture(square[1], bands)
