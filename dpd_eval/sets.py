"""Sets of images as judges open them: the images, and what dataset.json says of them."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.numpy import save

from dpd_runtime.bands import Band
from dpd_runtime.errors import InputError
from dpd_runtime.files import loads, read_object
from dpd_runtime.set_card import CLASSES_NAME
from dpd_runtime.set_record import SetRecord
from dpd_runtime.set_state import DATASET_NAME, METADATA_NAME
from dpd_train.config import HUB
from dpd_train.rasters import Rendering, rendering_of_set
from dpd_train.reading import PLAIN, Reading
from dpd_train.records import convert
from dpd_train.scene_set import SceneSet
from dpd_train.scenes import Scenes, opened

AGAIN = "run the same dpd generate again"
NO_PROTOTYPES = hashlib.sha256(save({})).hexdigest()


@dataclass(frozen=True, eq=False)
class Set:
    """Labelled images that are judged: a set of `dpd generate` or `dpd select`, or a folder of class folders.

    Args:
        scenes: its images. record: its dataset.json; None for a folder without one.
    """

    scenes: Scenes
    record: SetRecord | None

    @property
    def root(self) -> Path:
        return self.scenes.root

    @property
    def bands(self) -> tuple[Band, ...] | None:
        """Empty for RGB; None for a folder without a record, whose files decide."""
        return None if self.record is None else self.record.bands

    @property
    def reading(self) -> Reading | Rendering:
        """How its image files become pixels again."""
        return rendering_of_set(self.bands) if self.bands else PLAIN

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names by label: of all classes of its bundle, where classes.txt tells; else of its class folders, sorted.

        Raises:
            InputError: classes.txt is damaged.
        """
        path, own = self.root / CLASSES_NAME, self.scenes.classes
        if not path.is_file():
            return own
        names = tuple(path.read_text(encoding="utf-8", errors="replace").splitlines())
        if len({*names}) < len(names) or not {*own} <= {*names}:
            raise InputError(f"{path}: its lines are not the names of the classes, each once; {AGAIN}")
        return names

    @property
    def matching(self) -> str:
        """What stands for the matching that made its codes: their hash, or the bundle's if it has none; else empty."""
        if self.record is None:
            return ""
        codes = self.record.prototypes_sha256
        return (None if codes == NO_PROTOTYPES else codes) or self.record.bundle_hash or ""

    @property
    def published_watchers(self) -> tuple[str, ...] | None:
        """The published networks that watched its codes, as `hf:NAME`; None where its record does not say."""
        watchers = None if self.record is None else self.record.watchers
        return None if watchers is None else tuple(name for name in watchers if name.startswith(HUB))

    @cached_property
    def prototypes(self) -> dict[str, int]:
        """The prototype from which each image was made, by its path; empty for folders of another kind.

        Raises:
            InputError: metadata.jsonl is damaged.
        """
        path, found = self.root / METADATA_NAME, dict[str, int]()
        if not path.is_file():
            return found
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            try:
                record = loads(line)
                prototype = record.get("prototype")
                if type(prototype) is int and prototype >= 0:
                    found[str(record["file_name"])] = prototype
            except (ValueError, KeyError, AttributeError):
                raise InputError(f"{path}: line {number} is damaged; {AGAIN}") from None
        return found

    def beside(self, real: SceneSet, side: int) -> SceneSet:
        """All of its images, read as real ones were that carry bands."""
        carried = real.rendering if real.bands else None
        return self.scenes.read_as(PLAIN if carried is None else carried.of_sets).part("all", side)


def open_set(place: Path | Scenes | Set) -> Set:
    """Open a set, where it is not open yet.

    Raises:
        DataError: as `open_scenes`.
        InputError: dataset.json is damaged.
    """
    if isinstance(place, Set):
        return place
    scenes = opened(place, reading=PLAIN)
    return Set(scenes, read_record(scenes.root))


def read_record(folder: Path) -> SetRecord | None:
    """Read dataset.json; None for a folder without it.

    Raises:
        InputError: it is damaged.
    """
    path = folder / DATASET_NAME
    return convert_set(read_object(path, f"{path}:", AGAIN), str(path)) if path.is_file() else None


def convert_set(content: dict[str, Any], where: str) -> SetRecord:
    """Make a record of what dataset.json holds.

    Raises:
        InputError: a value of the wrong type, or limits of a band that cannot be; the message names it.
    """
    record = convert(content, SetRecord, where)
    for number, band in enumerate(record.bands):
        if fault := band.fault():
            raise InputError(f"{where}: bands[{number}]: its {fault}; {AGAIN}")
    return record
