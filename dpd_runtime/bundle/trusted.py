"""Whose signatures count at this site, and what a site may demand of a bundle (DESIGN §7)."""

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from dpd_runtime.bundle.keys import PUBLIC_SUFFIX, read_public_key
from dpd_runtime.bundle.signature import PublicKey
from dpd_runtime.errors import InputError

if TYPE_CHECKING:
    pass


def trusted_folder() -> Path:
    """$XDG_CONFIG_HOME/dpd/trusted, or ~/.config/dpd/trusted; not made here."""
    root = os.environ.get("XDG_CONFIG_HOME")
    return (Path(root) if root else Path.home() / ".config") / "dpd" / "trusted"


def trusted_keys(folder: Path | None = None) -> tuple[PublicKey, ...]:
    """Every .pub file of the folder, the user's own without one.

    Raises:
        InputError: one that is no public key, or a folder or file where anybody may write.
    """
    folder = trusted_folder() if folder is None else folder
    if not folder.is_dir():
        return ()
    paths = sorted(path for path in folder.iterdir() if path.suffix == PUBLIC_SUFFIX)
    for path in (folder, *paths):
        if path.stat().st_mode & stat.S_IWOTH:
            raise InputError(f"{path}: anybody may write there, so it says nothing of trust: chmod o-w {path}")
    return tuple(read_public_key(path) for path in paths)
