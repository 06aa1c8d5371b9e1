"""The keys whose signatures count at this site (DESIGN §7)."""

import os
import stat
from pathlib import Path

from dpd_runtime.bundle.keys import PUBLIC_SUFFIX, read_public_key
from dpd_runtime.bundle.signature import PublicKey
from dpd_runtime.errors import InputError


def trusted_folder() -> Path:
    """Return $XDG_CONFIG_HOME/dpd/trusted or ~/.config/dpd/trusted, without creating it."""
    root = os.environ.get("XDG_CONFIG_HOME")
    return (Path(root) if root else Path.home() / ".config") / "dpd" / "trusted"


def trusted_keys(folder: Path | None = None) -> tuple[PublicKey, ...]:
    """Read all .pub files of `folder`; None for the user's trusted folder.

    Raises:
        InputError: a file is not a public key, or everyone may write to the folder or a file.
    """
    folder = trusted_folder() if folder is None else folder
    if not folder.is_dir():
        return ()
    paths = sorted(path for path in folder.iterdir() if path.suffix == PUBLIC_SUFFIX)
    for path in (folder, *paths):
        if path.stat().st_mode & stat.S_IWOTH:
            raise InputError(f"{path}: everyone may write there, so it cannot be trusted; chmod o-w {path}")
    return tuple(read_public_key(path) for path in paths)
