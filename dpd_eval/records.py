"""Read what dpd wrote: JSON records, sets of images as one file, images of several bands."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from safetensors.numpy import save

from dpd_runtime.bands import Band, shown_bands
from dpd_runtime.errors import InputError
from dpd_runtime.files import MAX_JSON_BYTES, loads, open_regular, read_object
from dpd_runtime.set_state import DATASET_NAME, METADATA_NAME
from dpd_runtime.text import counted

if TYPE_CHECKING:
    from dpd_train.rasters import Rendering
    from dpd_train.reading import Reading
    from dpd_train.scene_set import SceneSet


# -- Read JSON from outside: it is refused where it is not what dpd writes.


MAX_BYTES = 64 * 2**20
MOST_CELLS = 500_000
"""Of a table, which takes 20 µs for each: a short record can name many rows and, apart from them, many columns."""
T = TypeVar("T")


def read_file(path: Path) -> bytes:
    """Read a file.

    Raises:
        InputError: it cannot be read, or it is larger than any result of dpd.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_BYTES:
                raise InputError(f"{path}: {size} bytes are too large for a result of dpd; give the JSON file")
            return file.read(size)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the name") from None


def parse_json(raw: bytes, where: str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        InputError: not JSON, beyond the limits of `dpd_runtime.files`, or not an object.
    """
    try:
        if len(raw) > MAX_JSON_BYTES:
            raise ValueError(f"more than {MAX_JSON_BYTES} bytes")
        content = loads(raw)
    except ValueError as error:
        raise InputError(f"{where}: is not JSON ({error}); give a file that dpd wrote") from None
    if not isinstance(content, dict):
        raise InputError(f"{where}: contains a {type(content).__name__}, not an object; give a file that dpd wrote")
    return content


def check_cells(cells: int, where: str) -> None:
    """Check the size of tables before they are made.

    Raises:
        InputError: more than MOST_CELLS.
    """
    if cells > MOST_CELLS:
        raise InputError(f"{where}: would fill {cells} cells of tables, more than {MOST_CELLS}; give a smaller record")


def convert(content: Any, kind: type[T], where: str) -> T:
    """Make a dataclass of a JSON object; fields that it does not know are left out.

    Raises:
        InputError: a field is missing, of the wrong type or out of range; the message names it.
    """
    try:
        return msgspec.convert(content, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        said, _, place = str(error).replace("`", "").partition(" - at ")
        said = f"{place.removeprefix('$').removeprefix('.')}: {said}" if place else said
        raise InputError(f"{where}: {said}; the file was changed or written by another version") from None


# -- What judges read of a set's dataset.json.


AGAIN = "run the same dpd generate again"
NO_PROTOTYPES = hashlib.sha256(save({})).hexdigest()


@dataclass(frozen=True)
class SetFile:
    """The bands, the watchers and the origin of a set.

    Args:
        bands: none for RGB.
        watchers: names of the networks, beside the run's own ones, that watched while codes were matched; None for a
            set of another kind, or one that an earlier version made.
        bundle_hash, prototypes_sha256: of the bundle that it was generated from; None for a set of another kind.
    """

    bands: tuple[Band, ...] = ()
    watchers: tuple[str, ...] | None = None
    bundle_hash: str | None = None
    prototypes_sha256: str | None = None

    @property
    def matching(self) -> str:
        """What stands for the matching that made its codes: their hash, or the bundle's if it has none; else empty."""
        codes = None if self.prototypes_sha256 == NO_PROTOTYPES else self.prototypes_sha256
        return codes or self.bundle_hash or ""


def read_set_file(folder: Path) -> SetFile | None:
    """Read dataset.json; None for a folder without it.

    Raises:
        InputError: it is damaged.
    """
    path = folder / DATASET_NAME
    if not path.is_file():
        return None
    found = convert(read_object(path, f"{path}:", AGAIN), SetFile, str(path))
    for number, band in enumerate(found.bands):
        if fault := band.fault():
            raise InputError(f"{path}: bands[{number}]: its {fault}; {AGAIN}")
    return found


def prototypes_of(folder: Path) -> dict[str, int]:
    """The prototype from which each image of a set was made, by its path; empty for other folders.

    Raises:
        InputError: metadata.jsonl is damaged.
    """
    path, found = folder / METADATA_NAME, dict[str, int]()
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


# -- The bands of a set or a bundle beside those of the real images that it is judged with.


NAMED = 4  # bands that a sentence names


def bands_of_set(folder: Path) -> tuple[Band, ...] | None:
    """The bands of a set as dataset.json has them, none for RGB; None for a folder without it, whose files decide.

    Raises:
        InputError: dataset.json is damaged.
    """
    found = read_set_file(folder)
    return None if found is None else found.bands


def check_bands(what: str, bands: Sequence[Band], real: "SceneSet", reference: str) -> None:
    """Check that a set or a bundle has the bands of the real images, by their names.

    Raises:
        InputError: it has others.
    """
    if [band.name for band in bands] == [band.name for band in real.bands]:
        return
    ours, theirs = described(bands), described(real.bands)
    way_out = "both need the same bands in one order, see --bands"
    if not bands:
        way_out = "leave out --bands all, or give what was made of these bands"
    elif not real.bands:
        way_out = "add --bands all"
    raise InputError(f"{what} has {ours}, {reference} has {theirs}: {way_out}")


def set_reading(real: "SceneSet") -> "Reading | Rendering":
    """How the files of a distilled set are read beside these real images."""
    from dpd_train.reading import PLAIN

    return real.rendering.of_sets if real.bands and real.rendering is not None else PLAIN


def described(bands: Sequence[Band]) -> str:
    """`RGB images`, `1 band (VV)` or `13 bands (B1, B2, B3, B4, …)`."""
    if not bands:
        return "RGB images"
    names = ", ".join(band.name for band in bands[:NAMED]) + (", …" if len(bands) > NAMED else "")
    return f"{counted(len(bands), 'band')} ({names})"


def shown(bands: Sequence[Band]) -> str:
    """Which bands a picture shows: `B4, B3 and B2 as red, green and blue`, or `VV in grey`."""
    red, green, blue = (bands[place].name for place in shown_bands(bands))
    return f"{red} in grey" if red == green == blue else f"{red}, {green} and {blue} as red, green and blue"
