"""Sources of labelled images: what folder trees and lists have in common, how files are split, and folder trees."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from dpd_runtime.dataset.folder import packed_format
from dpd_runtime.errors import DataError
from dpd_runtime.images.pictures import SUFFIXES, is_image
from dpd_runtime.text import printable
from dpd_train.held_out import HeldOut
from dpd_train.images.arrays import SUFFIX as ARRAY
from dpd_train.images.scene_set import Part

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


def reference_files(source: Source) -> Files:
    """Files of the part that decides the classes: train, if there is one."""
    if not source.parts:
        return source.files(None)
    return source.files("train" if "train" in source.parts else source.parts[0])


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


def files_of_part(source: Source, reference: Files, part: Part) -> Files:
    """The files of a part that the source brings; without parts, all files are training images.

    Raises:
        DataError: a part that is missing or has other classes.
    """
    root, parts = source.root, source.parts
    if part == "all":
        every = [_same_classes(source, name, reference) for name in parts] or [reference]
        return {name: [path for files in every for path in files[name]] for name in reference}
    if part in parts and part != "train":
        return _same_classes(source, part, reference)
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


def _same_classes(source: Source, part: str, reference: Files) -> Files:
    """Refuse a part with other classes: labels are positions in the class list, and would be wrong."""
    files = source.files(part)
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


@dataclass(frozen=True)
class FolderTree:
    """A class-per-folder tree, with train/ val/ test/ around the classes or not.

    Links are followed wherever they lead. Hidden files and files with other suffixes are ignored.
    """

    root: Path
    parts: tuple[str, ...]
    groups: Mapping[Path, str] = field(default_factory=dict)
    whole = "folder"
    classes = "class folders"

    @property
    def folder(self) -> Path:
        return self.root

    def name(self, part: str) -> str:
        return f"{part}/"

    def place(self, part: str) -> str:
        return str(self.root / part)

    def files(self, part: str | None) -> Files:
        tree = self.root if part is None else self.root / part
        try:
            return _class_files(tree)
        except OSError as error:
            raise _unreadable(tree, error) from error


def open_tree(root: Path) -> FolderTree:
    """Find the parts of a tree.

    Raises:
        DataError: a folder cannot be listed.
    """
    try:
        return FolderTree(root, tuple(name for name in ("train", "val", "test") if _holds_folders(root / name)))
    except OSError as error:
        raise _unreadable(root, error) from error


def _holds_folders(folder: Path) -> bool:
    """Whether a folder called train, val or test is a part; with images directly inside it is a class."""
    return folder.is_dir() and any(_is_class_folder(entry) for entry in folder.iterdir())


def _is_class_folder(entry: Path) -> bool:
    return entry.is_dir() and not entry.name.startswith((".", "__"))


def _is_scene(path: Path) -> bool:
    array = path.suffix.lower() == ARRAY and not path.name.startswith(".") and not path.is_dir()
    return is_image(path) or array


def _class_files(tree: Path) -> dict[str, list[Path]]:
    """The image files of each class, both sorted as strings."""
    folders = sorted((entry for entry in tree.iterdir() if _is_class_folder(entry)), key=lambda entry: entry.name)
    if not folders and (packed := packed_format(tree)):
        raise DataError(
            f"{tree}: is a distilled set of format {packed}, and only image folders are read here; make one with "
            "dpd generate --format imagefolder"
        )
    if not folders:
        raise DataError(f"{tree}: holds no class folders; put each class's images into a folder with the class's name")
    files = {}
    for folder in folders:
        if printable(folder.name) != folder.name:
            raise DataError(
                f"{printable(folder)}: the class name is not UTF-8 or has control characters; rename the folder"
            )
        files[folder.name] = sorted(filter(_is_scene, folder.iterdir()), key=lambda path: path.name)
        if not files[folder.name]:
            if _holds_folders(folder):
                raise DataError(f"{folder}: holds folders and no images; give the folder whose folders are the classes")
            raise DataError(
                f"{folder}: class {folder.name!r} has no images ({' '.join([*sorted(SUFFIXES), ARRAY])}) directly "
                "inside; add some or remove the folder"
            )
    if len(files) < 2:
        raise DataError(f"{tree}: holds one class only ({folders[0].name!r}); at least two class folders are needed")
    return files


def _unreadable(folder: Path, error: OSError) -> DataError:
    place = printable(error.filename if isinstance(error.filename, str) else str(folder))
    return DataError(f"{place}: cannot be listed ({error.strerror or error}); grant the permission or remove it")
