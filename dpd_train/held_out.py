"""Which training images are held out for validation where the data bring no val/.

They are chosen by the hash of each file's content, so that names and their order decide nothing: names often follow
place, time or scale, and then the last ones show other scenes than the rest. Files that show one scene stay on one
side: near duplicates, and files of one group (`--groups`).
"""
# ruff: noqa: RUF009 -- setting() is dataclasses.field()

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from dpd_runtime.errors import DataError, InputError
from dpd_train.options import setting

By = Literal["content", "files", "names"]
"""content: by a hash of each file, near duplicates and groups together. files: each file by its own hash alone, so that
one file that is replaced moves one other at most. names: the last ones."""
File = TypeVar("File", bound=Hashable)
LEAST = 2  # training images of a class
ALONE: Mapping[Any, Hashable] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """How the validation part is taken from training images that bring none. Every field is an option.

    Raises:
        InputError: a value out of range or without effect, or `groups` that is no regular expression.
    """

    val_per_class: int | None = setting(
        None,
        "Data",
        "Validation images per class; near duplicates count once. Default: a tenth of the class, at least 1.",
    )
    split: By = setting(
        "content",
        "Data",
        "How validation images are chosen where DATA brings none: by a hash of each file, with near duplicates on one "
        "side (content); by that hash alone (files); the last file names (names).",
    )
    groups: str | None = setting(
        None,
        "Data",
        "Column of the list, or regular expression of the file name: files with one value, such as a scene, a tile or "
        "a flight, are all training or all validation images.",
        "COLUMN_OR_REGEX",
    )
    allow_outside: bool = setting(
        False, "Data", "Accept a list that names files outside its own folder, such as by absolute paths."
    )

    def __post_init__(self) -> None:
        if self.val_per_class is not None and self.val_per_class < 0:
            raise InputError(f"--val-per-class is {self.val_per_class}: it must be at least 0")
        if self.groups is None:
            return
        if self.split != "content":
            raise InputError(f"--groups {self.groups} has no effect with --split {self.split}: leave one of them out")
        try:
            re.compile(self.groups)
        except re.error as error:
            raise InputError(
                f"--groups {self.groups}: is neither a column nor a regular expression ({error})"
            ) from None

    @property
    def held_out_options(self) -> dict[str, Any]:
        """What decides which images are held out."""
        return {"val_per_class": self.val_per_class, "split": self.split, "groups": self.groups}

    @property
    def elsewhere(self) -> "HeldOut":
        """For other data, of which nothing is held out: what is allowed stays allowed."""
        return HeldOut(allow_outside=self.allow_outside)

    @property
    def given(self) -> bool:
        """Whether any of them differs from its default, which is another one where another default is declared."""
        defaults = {field.name: field.default for field in fields(self)}
        return any(value != defaults[name] for name, value in self.held_out_options.items())

    def of_class(self, images: int) -> int:
        """The number of validation images that a class of `images` training images is to give."""
        wanted = max(1, images // 10) if self.val_per_class is None else self.val_per_class
        return min(wanted, images)

    def group_of(self, path: Path) -> str:
        """The group that the file's name gives: the first bracket of the regular expression, or all that it matches.

        Raises:
            DataError: the name does not match.
        """
        assert self.groups is not None
        match = re.search(self.groups, path.name)
        if match is None:
            raise DataError(f"--groups {self.groups}: does not match the file name {path.name!r}; give another one")
        return match.group(1 if match.re.groups else 0) or ""


BY_CONTENT = HeldOut()


def joined(*partitions: Mapping[File, Hashable]) -> dict[File, Hashable]:
    """The finest groups in which files stay together that one of the partitions puts together."""
    files: dict[Hashable, list[File]] = defaultdict(list)
    for number, groups in enumerate(partitions):
        for file, group in groups.items():
            files[number, group].append(file)
    together: dict[File, set[File]] = {}
    for members in files.values():
        sets = {file: together.get(file, {file}) for file in members}
        largest = max(sets.values(), key=len)
        for own in sets.values():
            if own is not largest:
                largest |= own
        for file in largest:
            together[file] = largest
    return {file: id(group) for file, group in together.items()}


def choose_groups(
    classes: Mapping[str, Mapping[File, str]],
    groups: Mapping[File, Hashable],
    held_out: HeldOut,
    place: object = "DATA",
    scenes: Mapping[File, Hashable] = ALONE,
) -> set[File]:
    """Choose the files that are held out, whole groups at a time, in an order that only their content decides.

    A group is taken if no class then gives more than its number, and several files only if two scenes are left. A class
    that gives nothing in this way gives its smallest group, so that it has validation images. Files of one scene count
    as one.

    Args:
        classes: class → file → hash of its content.
        groups: file → group; a file that is missing is a group of its own.
        place: of the data, for messages.
        scenes: file → scene that it shows, within a group; a file that is missing shows one of its own.

    Raises:
        DataError: no group of a class can be held out and leave two training images.
    """
    members: dict[Hashable, list[tuple[str, File]]] = defaultdict(list)
    for name, files in classes.items():
        for file in files:
            members[groups.get(file, (name, file))].append((name, file))
    shown = {group: {(name, scenes.get(file, (file,))) for name, file in files} for group, files in members.items()}
    counts = {group: Counter(name for name, _ in scenes) for group, scenes in shown.items()}
    rest = Counter[str]()
    for of_class in counts.values():
        rest.update(of_class)
    order = {group: _digest(classes[name][file] for name, file in files) for group, files in members.items()}
    waiting = sorted(members, key=lambda group: order[group])
    left = {name: held_out.of_class(rest[name]) for name in classes}
    wanting = sorted(name for name, number in left.items() if number)
    every = dict(rest)
    taken: set[File] = set()

    def take(group: Hashable) -> None:
        waiting.remove(group)
        taken.update(file for _, file in members[group])
        for name, number in counts[group].items():
            left[name] -= number
            rest[name] -= number

    for group in [*waiting]:
        one = len(members[group]) == 1
        if all(n <= left[name] and (one or rest[name] - n >= LEAST) for name, n in counts[group].items()):
            take(group)
    for name in wanting:
        if rest[name] < every[name]:
            continue
        possible = [
            group
            for group in waiting
            if name in counts[group] and all(rest[other] - number >= LEAST for other, number in counts[group].items())
        ]
        if not possible:
            raise DataError(f"{place}: {_one_sided(name, held_out)}")
        take(min(possible, key=lambda group: counts[group][name]))
    return taken


def _digest(digests: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def _one_sided(name: str, held_out: HeldOut) -> str:
    why = "its files are near duplicates of one another"
    if held_out.groups is not None:
        why = f"--groups {held_out.groups}, or near duplicates, put nearly all of its files into one group"
    return (
        f"class {name!r}: no group of its files can be held out and leave {LEAST} training images: {why}; put "
        "validation images into val/, give other --groups, or --val-per-class 0"
    )
