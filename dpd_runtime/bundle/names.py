"""Names of files and classes that mean the same in every file system, and mislead nobody who reads them."""

import re
import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath

from dpd_runtime.errors import BundleError
from dpd_runtime.files import PARTIAL
from dpd_runtime.strict_json import is_visible

LONGEST_PATH = 255
# Windows opens a device for these names, whatever ending they have.
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|clock\$|(com|lpt)[0-9\u00b9\u00b2\u00b3]) *(\..*)?", re.I)


def is_safe_name(name: str) -> bool:
    """Whether one part of a path is a visible name that no system or command line takes for something else.

    Refused: `.` and `..`, separators of any system, invisible letters, a leading `-`, an ending dot or space, devices
    of Windows, and the ending of unfinished files.
    """
    good = bool(name) and is_visible(name) and not any(c in name for c in "/\\:") and name not in (".", "..")
    good = good and not name.startswith("-") and name[-1:] not in (".", " ")
    return good and not _DEVICE.fullmatch(name) and not name.casefold().endswith(PARTIAL)


def check_entry_name(name: str) -> None:
    """Check that a path stays inside the bundle and has one meaning.

    Raises:
        BundleError: it does not.
    """
    parts = PurePosixPath(name).parts
    if name != "/".join(parts) or len(name) > LONGEST_PATH or not parts or not all(map(is_safe_name, parts)):
        raise BundleError(f"entry {name!r} has an unsafe path, so the bundle was not made by dpd export; do not use it")


def equal_names(names: Iterable[str]) -> tuple[str, str] | None:
    """The first two names that are one file on a system that ignores case or composes letters; None without any."""
    seen: dict[str, str] = {}
    for name in names:
        plain = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
        if plain in seen:
            return seen[plain], name
        seen[plain] = name
    return None
