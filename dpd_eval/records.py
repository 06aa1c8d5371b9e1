"""Read the JSON that dpd wrote, and compare the bands of what is judged with those of real images."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpd_runtime.bands import Band, shown_bands
from dpd_runtime.errors import InputError
from dpd_runtime.files import MAX_JSON_BYTES, loads, open_regular
from dpd_runtime.text import counted

if TYPE_CHECKING:
    from dpd_train.scene_set import SceneSet


# -- Read JSON from outside: it is refused where it is not what dpd writes.


MAX_BYTES = 64 * 2**20
MOST_CELLS = 500_000
"""Of a table, which takes 20 µs for each: a short record can name many rows and, apart from them, many columns."""


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


# -- The bands of a set or a bundle beside those of the real images that it is judged with.


NAMED = 4  # bands that a sentence names


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
