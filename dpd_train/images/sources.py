"""What a folder tree and a list have in common: files by part and class, and the words to speak of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from dpd_runtime.errors import DataError
from dpd_train.images.scene_set import Part

Files = Mapping[str, list[Path]]
"""The files of each class; classes sorted as strings, files by name."""


class Source(Protocol):
    """root stands for it in messages, names in reports are relative to `folder`."""

    @property
    def root(self) -> Path: ...
    @property
    def folder(self) -> Path: ...
    @property
    def parts(self) -> tuple[str, ...]: ...
    @property
    def whole(self) -> str:
        """What it is: folder or list."""

    @property
    def classes(self) -> str:
        """What names the classes, in the plural."""

    def name(self, part: str) -> str:
        """What a message calls a part."""

    def place(self, part: str) -> str:
        """Where a part is, as the start of a message."""

    def files(self, part: str | None) -> Files:
        """Of one of `parts`; None where there are none. Raises DataError: an empty class, one class only."""


def reference_files(source: Source) -> Files:
    """Files of the part that names the classes: train where there is one."""
    if not source.parts:
        return source.files(None)
    return source.files("train" if "train" in source.parts else source.parts[0])


def files_of_part(source: Source, reference: Files, part: Part, val_per_class: int | None) -> Files:
    """Which files `part` means, see `read_scenes`. Files are split by name before any is opened.

    Raises:
        DataError: a part that is not there or has other classes, `val_per_class` where a val part decides.
    """
    root, parts = source.root, source.parts
    if part == "all":
        every = [_same_classes(source, name, reference) for name in parts] or [reference]
        return {name: [path for files in every for path in files[name]] for name in reference}
    if part in parts and part != "train":
        if part == "val" and val_per_class is not None:
            raise DataError(_val_decides(source))
        return _same_classes(source, part, reference)
    if part == "test":
        raise DataError(
            f"{root}: has no {source.name(part)} with {source.classes}; "
            f"give the {source.whole} of the {part} images itself"
        )
    if parts and "train" not in parts:
        there = ", ".join(source.name(name) for name in parts)
        raise DataError(f"{root}: has {there} but no {source.name('train')} with {source.classes}; add it")
    if "val" in parts:
        if val_per_class is not None:
            raise DataError(_val_decides(source))
        return reference
    return {name: _held(paths, part, val_per_class) for name, paths in reference.items()}


def _held(paths: list[Path], part: Part, val_per_class: int | None) -> list[Path]:
    held_out = max(1, len(paths) // 10) if val_per_class is None else val_per_class
    cut = max(0, len(paths) - held_out)
    return paths[:cut] if part == "train" else paths[cut:]


def _val_decides(source: Source) -> str:
    val = source.name("val")
    return (
        f"{source.root}: holds {val}, so a number of validation images per class has no effect; "
        f"leave it out or remove {val}"
    )


def _same_classes(source: Source, part: str, reference: Files) -> Files:
    """Labels are positions in the class list, so a part with other classes would be mislabelled without a word."""
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
