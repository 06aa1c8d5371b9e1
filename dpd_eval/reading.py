"""Read JSON from outside: it is refused where it is not what dpd writes."""

import os
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from dpd_runtime.errors import InputError
from dpd_runtime.files import open_regular
from dpd_runtime.strict_json import MAX_JSON_BYTES, loads

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
        InputError: not JSON, beyond the limits of `dpd_runtime.strict_json`, or not an object.
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
