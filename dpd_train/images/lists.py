"""CSV and Parquet lists of images with columns path, label and, if there are parts, split."""

import csv
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import chain
from pathlib import Path, PurePosixPath

from dpd_runtime.errors import DataError, MissingExtraError
from dpd_runtime.text import composed, printable
from dpd_train.images.sources import PART_NAMES, Files, part_called

LIST_SUFFIXES = frozenset({".csv", ".parquet"})
NEEDED, SPLIT = ("path", "label"), "split"
EMPTY = frozenset({"nan", "NaN", "NAN", "<NA>", "NaT", "null", "NULL", "None", "NA", "N/A", "#N/A"})
"""What pandas, R, databases and spreadsheets write where a cell is empty."""
NUMBER = re.compile(r"\d+(\.0*)?")
DELIMITERS = (",", ";", "\t")
MOST_ROWS = 10_000_000

Row = tuple[int, Mapping[str, object]]
"""Number of a row, for messages; the values of its columns that are read."""


@dataclass(frozen=True)
class SceneList:
    """A list that has been read; without a split column `by_part` has only the key None."""

    root: Path
    by_part: dict[str | None, dict[str, list[Path]]] = field(repr=False)
    groups: Mapping[Path, str] = field(repr=False)
    whole = "list"
    classes = "labels"

    @property
    def folder(self) -> Path:
        return self.root.parent

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(name for name in PART_NAMES if name in self.by_part)

    def name(self, part: str) -> str:
        return f"split {part}"

    def place(self, part: str) -> str:
        return f"{self.root}, split {part}"

    def files(self, part: str | None) -> Files:
        files = self.by_part[part]
        if len(files) < 2:
            place = self.root if part is None else self.place(part)
            raise DataError(f"{place}: holds one class only ({next(iter(files))!r}); at least two labels are needed")
        return files


def open_list(path: Path, groups: str | None = None, allow_outside: bool = False) -> SceneList:
    """Read a list. Paths are relative to its folder (links are followed).

    Args:
        groups: a column that says which files belong together, if the list has it.
        allow_outside: whether paths may leave its folder by name, as absolute ones do. A list that somebody else wrote
            could name any file of this machine.

    Raises:
        DataError: the list has another form; the message has the row.
        MissingExtraError: a Parquet list without pyarrow.
    """
    rows = (_parquet_rows if path.suffix.lower() == ".parquet" else _csv_rows)(path, groups)
    first_row: dict[Path, int] = {}
    group_of: dict[Path, str] = {}
    by_part: dict[str | None, dict[str, list[Path]]] = {}
    for number, row in rows:
        place = f"{path}, row {number}"
        name, label = _path(row["path"], path.parent, place, allow_outside), _label(row["label"], place)
        if name in first_row:
            raise DataError(
                f"{place}: {printable(name)} is already in row {first_row[name]}; list each image once, "
                "with one label and in one split"
            )
        first_row[name] = number
        part = _split(row[SPLIT], place) if SPLIT in row else None
        if groups is not None and groups in row:
            group_of[path.parent / name] = _group(row[groups], groups, place)
        by_part.setdefault(part, {}).setdefault(label, []).append(path.parent / name)
    if not by_part:
        raise DataError(f"{path}: lists no images")
    _check_numbers(path, {label for files in by_part.values() for label in files})
    return SceneList(path, {part: _sorted(files) for part, files in by_part.items()}, group_of)


def _sorted(files: dict[str, list[Path]]) -> dict[str, list[Path]]:
    return {label: sorted(files[label], key=str) for label in sorted(files)}


def _path(value: object, folder: Path, place: str, allow_outside: bool) -> Path:
    """The path as it is written or, where no such file is there, without blanks around it or with letters composed in
    another way.
    """
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{place}: has no path")
    bare = value.strip()
    spellings = dict.fromkeys([value, bare, *(unicodedata.normalize(form, bare) for form in ("NFC", "NFD"))])
    if len(spellings) > 1:
        value = next((path for path in spellings if os.path.lexists(folder / path)), bare)
    name = PurePosixPath(value)
    if not allow_outside and (name.is_absolute() or ".." in name.parts):
        raise DataError(
            f"{place}: path {value!r} leaves the list's folder; pass --allow-outside if the list is yours, or give "
            "paths relative to it and move it above the images"
        )
    return Path(name)


def _label(value: object, place: str) -> str:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not text.strip() or printable(text.strip()) != text.strip():
        raise DataError(f"{place}: label {value!r} is not a class name; give a word or a whole number")
    name = composed(text.strip())
    if name in EMPTY:
        raise DataError(
            f"{place}: label {name!r} is what an empty cell becomes; fill in the class or remove the row, or give the "
            "class another name"
        )
    if name.startswith("[") and name.endswith("]"):
        raise DataError(f"{place}: label {name!r:.80} is a list of labels; give one")
    return name


def _group(value: object, column: str, place: str) -> str:
    group = "" if value is None else str(value).strip()
    if not group or group in EMPTY:
        raise DataError(f"{place}: has no {column}, by which --groups keeps images together; fill it in")
    return group


def _check_numbers(path: Path, labels: Iterable[str]) -> None:
    """Refuse labels that are one number in two ways, as 1, 01 and 1.0 are."""
    of_number: dict[float, str] = {}
    for label in sorted(labels):
        if NUMBER.fullmatch(label) and of_number.setdefault(float(label), label) != label:
            raise DataError(
                f"{path}: labels {of_number[float(label)]!r} and {label!r} are one number; write it in one way"
            )


def _split(value: object, place: str) -> str:
    text = "" if value is None else str(value).strip()
    part = part_called(text)
    if part is None:
        raise DataError(f"{place}: split {text!r} is none of {', '.join(PART_NAMES)}")
    return part


def _columns(header: Sequence[str], path: Path, groups: str | None) -> dict[str, int]:
    """Positions of the columns path, label and, if the list has them, split and `groups`."""
    wanted = dict.fromkeys([*NEEDED, *(name for name in (SPLIT, groups) if name is not None and name in header)])
    if any(header.count(name) != 1 for name in wanted):
        shown = printable(", ".join(header))[:200] or "nothing"
        raise DataError(
            f"{path}: the first line has to name the columns path, label and, where there are parts, split, once each, "
            f"with commas, semicolons or tabs between; found {shown}"
        )
    return {name: header.index(name) for name in wanted}


def _delimiter(first: str) -> str:
    """The separator of a CSV file whose first line is `first`: one that gives the needed columns, else a comma."""
    for delimiter in DELIMITERS:
        if set(NEEDED) <= {name.strip() for row in csv.reader([first], delimiter=delimiter) for name in row}:
            return delimiter
    return DELIMITERS[0]


def _csv_rows(path: Path, groups: str | None) -> Iterator[Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            lines = csv.reader(chain([first], file), delimiter=_delimiter(first), strict=True)
            header = [name.strip() for name in next(lines, [])]
            places = _columns(header, path, groups)
            for line in lines:
                if not any(map(str.strip, line)):
                    continue  # a spreadsheet writes commas for rows without content
                if len(line) != len(header):
                    raise DataError(
                        f"{path}, row {lines.line_num}: has {len(line)} fields, the first line {len(header)}; put a "
                        "field that holds the separator into double quotes"
                    )
                yield lines.line_num, {name: line[place] for name, place in places.items()}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: is no CSV file in UTF-8 ({_short(error)})") from error


def _parquet_rows(path: Path, groups: str | None) -> Iterable[Row]:
    if find_spec("pyarrow") is None:
        raise MissingExtraError("pyarrow", "parquet")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            header = list(file.schema_arrow.names)
            names = [*_columns(header, path, groups)]
            if file.metadata.num_rows > MOST_ROWS:
                raise DataError(f"{path}: has {file.metadata.num_rows} rows, at most {MOST_ROWS} are read")
            table = file.read(columns=names, use_threads=False)
        columns = [table.column(name).to_pylist() for name in names]
    except (OSError, ValueError, pa.ArrowException) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: is no Parquet file ({_short(error)})") from error
    return enumerate((dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)), start=1)


def _short(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return printable(" ".join(text.split()))[:200]
