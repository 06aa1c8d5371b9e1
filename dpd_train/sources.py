"""Where labelled scenes lie: folder trees and lists."""

import csv
import logging
import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Protocol

from dpd_runtime.dataset import packed_format
from dpd_runtime.errors import DataError, MissingExtraError
from dpd_runtime.image_folders import OF_SETS, SET, image_files, is_hidden, made_by_dpd, passed_over
from dpd_runtime.images import SUFFIXES, is_image
from dpd_runtime.text import composed, counted, printable
from dpd_train.rasters import SUFFIX as ARRAY
from dpd_train.reading import PLACE_COLUMNS, HeldOut, cell_of, cell_side
from dpd_train.scene_set import Part

# -- Sources of labelled images: what folder trees and lists have in common, how files are split, and folder trees.


log = logging.getLogger(__name__)
PART_NAMES: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""What the folders and splits of each part are called, in lower case."""
Files = Mapping[str, list[Path]]
"""The files of each class; classes sorted as strings, files by name."""


class Source(Protocol):
    """A folder tree or a list. Messages name it by `root`; names in reports are relative to `folder`."""

    @property
    def root(self) -> Path: ...
    @property
    def folder(self) -> Path: ...
    @property
    def parts(self) -> tuple[str, ...]: ...
    @property
    def groups(self) -> Mapping[Path, str]:
        """The group of each file, where a list has a column of them; else empty."""

    @property
    def whole(self) -> str:
        """What it is: folder or list."""

    @property
    def classes(self) -> str:
        """What the classes are called in messages, in the plural."""

    def name(self, part: str) -> str:
        """The name of a part in messages."""

    def place(self, part: str) -> str:
        """The place of a part, as the start of a message."""

    def files(self, part: str | None) -> Files:
        """The files of one of `parts`; of all if `part` is None, without parts.

        Raises:
            DataError: an empty class, or only one class.
        """


def divides(source: Source, part: Part, held_out: HeldOut) -> bool:
    """Whether `part` is one of the two that training images are divided into, as the source brings no val part.

    Raises:
        DataError: there is a val part, and `held_out` asks for another one.
    """
    if part not in ("train", "val"):
        return False
    if "val" in source.parts and held_out.given:
        raise DataError(_val_decides(source))
    return "val" not in source.parts


def files_of_part(source: Source, files: Callable[[str], Files], reference: Files, part: Part) -> Files:
    """The files of a part that the source brings; without parts, all files are training images.

    Args:
        files: `source.files`, which may keep what it listed. reference: those of the part that decides the classes.

    Raises:
        DataError: a part that is missing or has other classes.
    """
    root, parts = source.root, source.parts
    if part == "all":
        every = [_same_classes(source, files, name, reference) for name in parts] or [reference]
        return {name: [path for of_part in every for path in of_part[name]] for name in reference}
    if part in parts and part != "train":
        return _same_classes(source, files, part, reference)
    if part == "test":
        raise DataError(
            f"{root}: has no {source.name(part)} with {source.classes}; "
            f"give the {source.whole} of the {part} images itself"
        )
    if parts and "train" not in parts:
        there = ", ".join(source.name(name) for name in parts)
        raise DataError(f"{root}: has {there} but no {source.name('train')} with {source.classes}; add it")
    return reference


def _val_decides(source: Source) -> str:
    val = source.name("val")
    return (
        f"{source.root}: holds {val}, so --val-per-class, --split and --groups have no effect; "
        f"leave them out or remove {val}"
    )


def _same_classes(source: Source, list_files: Callable[[str], Files], part: str, reference: Files) -> Files:
    """Refuse a part with other classes: labels are positions in the class list, and would be wrong."""
    files = list_files(part)
    missing, extra = sorted(reference.keys() - files.keys()), sorted(files.keys() - reference.keys())
    if missing or extra:
        say = "; ".join(
            f"{verb} {', '.join(names)}" for verb, names in (("lacks", missing), ("has in addition", extra)) if names
        )
        raise DataError(
            f"{source.place(part)}: its classes are not those of the other parts: {say}; "
            f"make the {source.classes} equal"
        )
    return files


def part_called(name: str) -> str | None:
    """The part that a folder or split of this name is, in whatever case; None for any other name."""
    return next((part for part, names in PART_NAMES.items() if name.casefold() in names), None)


@dataclass(frozen=True)
class FolderTree:
    """A class-per-folder tree, with train/ val/ test/ around the classes or not.

    Links are followed wherever they lead. Hidden files and folders, and files with other suffixes, are ignored; folders
    that dpd made are passed over. Any other image that no class holds is told or refused.

    Args:
        folders: of the parts, as they are called: `valid/` is val.
    """

    root: Path
    folders: Mapping[str, Path]
    groups: Mapping[Path, str] = field(default_factory=dict)
    whole = "folder"
    classes = "class folders"

    @property
    def folder(self) -> Path:
        return self.root

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(part for part in PART_NAMES if part in self.folders)

    def name(self, part: str) -> str:
        return f"{self.folders[part].name if part in self.folders else part}/"

    def place(self, part: str) -> str:
        return str(self.folders[part])

    def files(self, part: str | None) -> Files:
        tree = self.root if part is None else self.folders[part]
        try:
            return _class_files(tree)
        except OSError as error:
            raise _unreadable(tree, error) from error


def open_tree(root: Path) -> FolderTree:
    """Find the parts of a tree, and account for what is beside them.

    Raises:
        DataError: a folder cannot be listed, `root` is another result of ours than a set, two folders are one part, or
            images beside the parts seem to belong to one.
    """
    made = made_by_dpd(root)
    if made not in (None, SET):
        raise DataError(f"{root}: is {made}, and holds no class folders; give the folder of the images")
    try:
        folders = subfolders(root)
        parts: dict[str, Path] = {}
        for folder in folders:
            part = part_called(folder.name)
            if part is None or not subfolders(folder):
                continue  # with images directly inside and no folders it is a class
            if part in parts:
                raise DataError(
                    f"{root}: {parts[part].name}/ and {folder.name}/ would both be the part {part}; put their images "
                    "into one of them"
                )
            parts[part] = folder
        if parts:
            _account(root, parts, [folder for folder in folders if folder not in parts.values()])
        return FolderTree(root, parts)
    except OSError as error:
        raise _unreadable(root, error) from error


def _account(root: Path, parts: Mapping[str, Path], others: Sequence[Path]) -> None:
    """Tell of the images beside the parts; refuse those that seem to be meant for a part."""
    _tell_loose(root, f"beside {_list(folder.name for folder in parts.values())}")
    known = {composed(folder.name) for part in parts.values() for folder in subfolders(part)}
    for other in others:
        count, first = _images_in([other], root)
        if not count:
            continue
        found = f"{root}: {other.name}/ holds {counted(count, 'image')}, first {first},"
        if composed(other.name) in known:
            there = parts.get("train", next(iter(parts.values()))).name
            raise DataError(f"{found} beside {there}/, which has this class too; move them into {there}/{other.name}")
        if part_called(other.name) == "val":
            raise DataError(
                f"{found} but no class folders; put them into {other.name}/CLASS, or move {other.name}/ away"
            )
        if known & {composed(entry.name) for entry in other.iterdir()}:
            raise DataError(
                f"{found} of the same classes, and its name is no part's; call it "
                f"{' or '.join(f'{part}/' for part in PART_NAMES if part not in parts) or 'otherwise'}, or move it away"
            )
        _tell(
            f"{printable(other)} holds {counted(count, 'image')}, first {first}: they are not read, as it is beside "
            f"{_list(folder.name for folder in parts.values())} and no part"
        )


def _list(names: Iterable[str]) -> str:
    return ", ".join(f"{name}/" for name in names)


@lru_cache(maxsize=4096)
def _tell(line: str) -> None:
    """Log a line once, however often the data are opened."""
    log.warning(line)


def _tell_loose(folder: Path, where: str) -> None:
    """Tell of images directly inside a folder of classes or parts; those of a distilled set are its own pictures."""
    made = made_by_dpd(folder) == SET
    loose = sorted(p.name for p in folder.iterdir() if _is_scene(p) and not (made and p.name in OF_SETS))
    if loose:
        _tell(
            f"{printable(folder)} holds {counted(len(loose), 'image')} {where}, first {printable(loose[0])}: they "
            "are not read; put them into the folder of a class"
        )


def _images_in(folders: Sequence[Path], below: Path) -> tuple[int, str]:
    """The number of images in folders, however deep, and the first one's path relative to `below`."""
    found = sorted(str(path.relative_to(below)) for folder in folders for path in _all_images(folder))
    return len(found), printable(found[0]) if found else ""


def _all_images(folder: Path) -> Iterator[Path]:
    return image_files(folder, lambda path, what: _tell(passed_over(path, what)), _is_scene, links=True)


def subfolders(tree: Path) -> list[Path]:
    """The folders in `tree` that may be classes or parts, by name: neither hidden nor ours.

    A distilled set with the name of a part was put there by somebody, and is one.
    """
    found = []
    with os.scandir(tree) as entries:
        visible = [entry for entry in entries if not is_hidden(entry.name)]
        names = [entry.name for entry in visible if entry.is_dir(follow_symlinks=False) or entry.is_symlink()]
    for entry in filter(Path.is_dir, (tree / name for name in sorted(names))):
        made = made_by_dpd(entry)
        if made is not None and not (made == SET and part_called(entry.name)):
            _tell(passed_over(entry, made))
        elif entry.name.startswith("__"):
            count, first = _images_in([entry], tree)
            if count:
                held = counted(count, "image")
                _tell(f"{printable(entry)} holds {held}, first {first}: not read, as its name begins with __")
        else:
            found.append(entry)
    return found


def _is_scene(path: Path) -> bool:
    array = path.suffix.lower() == ARRAY and not path.name.startswith(".") and not path.is_dir()
    return is_image(path) or array


def _class_files(tree: Path) -> dict[str, list[Path]]:
    """The image files of each class, both sorted as strings."""
    folders = subfolders(tree)
    if not folders and (packed := packed_format(tree)):
        raise DataError(
            f"{tree}: is a distilled set of format {packed}, and only image folders are read here; make one with "
            "dpd generate --format imagefolder"
        )
    if not folders:
        raise DataError(f"{tree}: holds no class folders; put each class's images into a folder with the class's name")
    _tell_loose(tree, "beside the class folders")
    files = {}
    for folder in folders:
        if printable(folder.name) != folder.name:
            raise DataError(
                f"{printable(folder)}: the class name is not UTF-8 or has control characters; rename the folder"
            )
        name = composed(folder.name)
        if name in files:
            raise DataError(
                f"{tree}: two folders read {name!r} and differ in how letters are composed ({name!a} and "
                f"{folder.name!a} or the like); move their images into one"
            )
        files[name] = sorted(filter(_is_scene, folder.iterdir()), key=lambda path: path.name)
        _check_depth(folder, len(files[name]))
    if len(files) < 2:
        raise DataError(f"{tree}: holds one class only ({next(iter(files))!r}); at least two class folders are needed")
    return {name: files[name] for name in sorted(files)}


def _check_depth(folder: Path, direct: int) -> None:
    """Refuse a class folder without images directly inside, or with some deeper.

    Args:
        direct: number of images directly inside.

    Raises:
        DataError: it is one.
    """
    inside = folder.parent.resolve()
    deeper = [one for one in subfolders(folder) if not (one.is_symlink() and one.resolve().is_relative_to(inside))]
    count, first = _images_in(deeper, folder)  # what a link leads to inside the data is read there
    list_them = "name them in a .csv list of paths and labels"
    if count and direct:
        raise DataError(
            f"{folder}: has {counted(direct, 'image')} directly inside and {count} in folders inside, first "
            f"{first}, which nothing would read; move them up into {folder.name}/ or out of the data, or {list_them}"
        )
    if count:
        raise DataError(
            f"{folder}: has no images directly inside and {count} in folders inside, first {first}; if {folder.name!r} "
            f"is the class, move them up into it or {list_them}; if the folders inside are the classes or parts, give "
            f"{folder}"
        )
    if not direct:
        raise DataError(
            f"{folder}: class {folder.name!r} has no images ({' '.join([*sorted(SUFFIXES), ARRAY])}) directly "
            "inside; add some or remove the folder"
        )


def _unreadable(folder: Path, error: OSError) -> DataError:
    place = printable(error.filename if isinstance(error.filename, str) else str(folder))
    return DataError(f"{place}: cannot be listed ({error.strerror or error}); grant the permission or remove it")


# -- CSV and Parquet lists of images with columns path, label and, if there are parts, split.


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
        groups: a column that says which files belong together, or cells of so many kilometres by the columns lon and
            lat, if the list has them.
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
        if (where := _place_columns(row)) and (side := cell_side(groups)) is not None:
            longitude, latitude = (_degrees(row[column], column, place) for column in where)
            group_of[path.parent / name] = cell_of(longitude, latitude, side)
        elif groups is not None and groups in row:
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


def _place_columns(header: Iterable[str]) -> tuple[str, ...]:
    names = set(header)
    return next((pair for pair in PLACE_COLUMNS if names.issuperset(pair)), ())


def _degrees(value: object, column: str, place: str) -> float:
    try:
        degrees = float(str(value).strip())
    except ValueError:
        degrees = math.nan
    most = 90 if column.startswith("lat") else 180
    if not -most <= degrees <= most:
        raise DataError(f"{place}: {column} {value!r} is no number of degrees from −{most} to {most}; correct it")
    return degrees


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
    """Positions of the columns path, label and, if the list has them, split and those of `groups`."""
    more = _place_columns(header) if cell_side(groups) is not None else (groups,)
    wanted = dict.fromkeys([*NEEDED, *(name for name in (SPLIT, *more) if name is not None and name in header)])
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
