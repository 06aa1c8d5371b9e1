"""Read a distilled set: its dataset.json, and pictures of each class."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from dpd_eval.report.names import hide_paths
from dpd_eval.report.pictures import Picture, class_sheet
from dpd_eval.report.reading import parse_json, read_file
from dpd_runtime.bundle.manifest import parse_sampler
from dpd_runtime.dataset.formats import PNG
from dpd_runtime.dataset.formats.imagefolder import IMAGEFOLDER
from dpd_runtime.dataset.pictures import read_pixels
from dpd_runtime.dataset.state import DATASET_NAME, METADATA_NAME
from dpd_runtime.errors import DataError
from dpd_runtime.sampling.sampler import Sampler
from dpd_train.images import SUFFIXES

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


@dataclass(frozen=True)
class SetRecord:
    name: str
    set_hash: str
    bundle_hash: str
    bundle_name: str
    signature: str
    audit: str
    seed: int | None
    ipc: int | None
    images: int | None
    provider: str
    sampler: Sampler | None
    classes: tuple[ClassSheet, ...]
    versions: Mapping[str, str]
    cpu_flags: tuple[str, ...]
    real: bool
    method: str
    extractor: str
    resolution: int | None
    format: str
    image_format: str
    soft_labels: bool


def read_set(folder: Path, name: str) -> SetRecord:
    """Read a distilled set.

    Raises:
        InputError: dataset.json is damaged.
        DataError: an image that dataset.json counts is missing or damaged.
    """
    node = parse_json(read_file(folder / DATASET_NAME), f"{folder / DATASET_NAME}")
    # sets of `dpd select` (real_images) are private data and are not shown; a packed set has no image files
    real = node.flag("real_images")
    packed = node.text("format", IMAGEFOLDER.name)
    pictured = not real and packed == IMAGEFOLDER.name
    counts = node.child("counts")
    records = _metadata(folder / METADATA_NAME)
    names = tuple(counts.content) if counts else ()
    made_with = node.child("made_with")
    sampler = made_with.child("sampler") if made_with else None
    return SetRecord(
        name=name,
        set_hash=node.text("set_hash"),
        bundle_hash=node.text("bundle_hash"),
        bundle_name=node.text("bundle_name"),
        signature=node.text("signature"),
        audit=node.text("audit"),
        seed=node.maybe_whole("seed"),
        ipc=node.maybe_whole("ipc"),
        images=node.maybe_whole("images"),
        provider=node.text("provider"),
        sampler=parse_sampler(dict(sampler.content)) if sampler else None,
        classes=tuple(_class_sheet(folder, c, counts.whole(c), records, pictured) for c in names) if counts else (),
        versions=node.texts_by_name("versions"),
        cpu_flags=node.texts("cpu_flags"),
        real=real,
        method=node.text("method"),
        extractor=node.text("extractor"),
        resolution=node.maybe_whole("resolution"),
        format=packed,
        image_format=node.text("image_format", PNG.name),
        soft_labels=node.flag("soft_labels"),
    )


def _metadata(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Read the lines of metadata.jsonl by class; none if the file is missing."""
    if not path.is_file():
        return {}
    found: dict[str, list[dict[str, Any]]] = {}
    for number, line in enumerate(read_file(path).decode("utf-8", "replace").splitlines(), 1):
        try:
            record = json.loads(line)
            found.setdefault(str(record["class"]), []).append(record)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise DataError(f"{path}: line {number} is damaged; run the command that made the set again") from None
    return found


def _class_sheet(
    folder: Path, name: str, count: int, records: Mapping[str, list[dict[str, Any]]], pictured: bool
) -> ClassSheet:
    own = records.get(name, [])
    margins = [r["margin"] for r in own if isinstance(r.get("margin"), int | float)]
    prompts = dict.fromkeys(hide_paths(str(r["prompt"])) for r in own[:SHOWN] if r.get("prompt"))
    pixels = [_pixels(path) for path in _files(folder, name)] if pictured else []
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
    inside = (folder / class_name).resolve()
    if inside.parent != folder.resolve():
        raise DataError(f"{folder / DATASET_NAME}: class {class_name!r} is not a folder of the set; generate it again")
    files = [path for path in sorted(inside.glob("*")) if path.suffix.lower() in SUFFIXES]
    if not files:
        raise DataError(
            f"{folder / class_name}: contains no images although dataset.json counts some; generate it again"
        )
    return [path for path in files[:SHOWN] if path.resolve().parent == inside]


def _pixels(path: Path) -> Any:
    pixels = read_pixels(path)
    if pixels is None:
        raise DataError(f"{path}: cannot be read as an image; run the same dpd generate again to repair the set")
    return pixels
