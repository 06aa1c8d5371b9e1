"""The folder with the keys whose signatures count at this site. Its permissions are checked as ssh does."""

import os
from pathlib import Path

from dpd_runtime.bundle.keys import PUBLIC_SUFFIX, read_public_key
from dpd_runtime.bundle.signature import PublicKey
from dpd_runtime.errors import DiskError, InputError
from dpd_runtime.files import home_folder, is_foreign, others_may_write, user_folder


def trusted_folder() -> Path:
    """Return $XDG_CONFIG_HOME/dpd/trusted or ~/.config/dpd/trusted, without creating it.

    Raises:
        DiskError: there is no home folder.
    """
    return user_folder("XDG_CONFIG_HOME", ".config", "trusted")


def place_of_trust() -> str:
    """The trusted folder in words, for messages."""
    try:
        return str(trusted_folder())
    except DiskError:
        return "~/.config/dpd/trusted (there is no home folder here: set XDG_CONFIG_HOME)"


def trusted_keys(folder: Path | None = None) -> tuple[PublicKey, ...]:
    """Read all .pub files of `folder`; None for the user's trusted folder. Hidden files, as macOS leaves, are no keys.

    There are no keys without a folder that this user reaches, as where there is no home folder or it is another user's.

    Raises:
        InputError: a file is not a public key, or somebody else could change it (see `check_owned`).
    """
    try:
        folder = trusted_folder() if folder is None else folder
        if not folder.is_dir():
            return ()
    except (DiskError, PermissionError):
        return ()
    check_owned(folder)
    paths = sorted(path for path in folder.iterdir() if path.suffix == PUBLIC_SUFFIX and not path.name.startswith("."))
    for path in paths:
        check_owned(path)
    return tuple(read_public_key(path) for path in paths)


def check_owned(path: Path) -> None:
    """Check that only this user and root can change `path`: the rule of OpenSSH's StrictModes.

    It and every folder above it, up to the home folder or the root, belong to this user or to root, and neither the
    group nor others may write there. A folder of root with the sticky bit, such as /tmp, is accepted: others can add
    files there, but not rename ours. Links are followed first. Nothing is checked where files have no owner (Windows).

    Raises:
        InputError: somebody else could change it.
    """
    if not hasattr(os, "getuid"):
        return
    real, home = path.resolve(), home_folder()
    for part in (real, *real.parents):
        status = part.stat()
        if is_foreign(status):
            raise InputError(
                f"{part}: it belongs to another user (uid {status.st_uid}), who could change what this site trusts; "
                f"chown it, or keep trusted keys elsewhere ($XDG_CONFIG_HOME)"
            )
        if others_may_write(status):
            raise InputError(f"{part}: others may write there, so it cannot be trusted; chmod go-w {part}")
        if home is not None and part == home.resolve():
            return
