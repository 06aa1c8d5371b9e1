"""Class-per-folder trees, with train/ val/ test/ around the classes or not."""

from dataclasses import dataclass
from pathlib import Path

from dpd_runtime.dataset.finished import packed_format
from dpd_runtime.errors import DataError
from dpd_train.images.names import printable
from dpd_train.images.sources import Files

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class FolderTree:
    """Links are followed, wherever they lead; hidden files and those of other endings are passed over."""

    root: Path
    parts: tuple[str, ...]
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
    """Raises:
    DataError: a folder that may not be listed.
    """
    try:
        return FolderTree(root, tuple(name for name in ("train", "val", "test") if _holds_folders(root / name)))
    except OSError as error:
        raise _unreadable(root, error) from error


def _holds_folders(folder: Path) -> bool:
    """Whether a folder called train, val or test is a part. One with images directly inside is a class of that name."""
    return folder.is_dir() and any(_is_class_folder(entry) for entry in folder.iterdir())


def _is_class_folder(entry: Path) -> bool:
    return entry.is_dir() and not entry.name.startswith((".", "__"))


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
    found = {}
    for folder in folders:
        if printable(folder.name) != folder.name:
            raise DataError(
                f"{printable(folder)}: the class name is not UTF-8 or has control characters; rename the folder"
            )
        found[folder.name] = sorted((path for path in folder.iterdir() if _is_image(path)), key=lambda path: path.name)
        if not found[folder.name]:
            raise DataError(
                f"{folder}: class {folder.name!r} has no images ({' '.join(sorted(SUFFIXES))}) directly inside; "
                "add some or remove the folder"
            )
    if len(found) < 2:
        raise DataError(f"{tree}: holds one class only ({folders[0].name!r}); at least two class folders are needed")
    return found


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not path.is_dir()


def _unreadable(folder: Path, error: OSError) -> DataError:
    place = printable(error.filename if isinstance(error.filename, str) else str(folder))
    return DataError(f"{place}: cannot be listed ({error.strerror or error}); grant the permission or remove it")
