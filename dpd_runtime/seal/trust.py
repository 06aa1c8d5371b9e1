"""Whose signatures count at this site, and what a site may demand of a bundle (DESIGN §7)."""

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from dpd_runtime.errors import InputError, RequirementError
from dpd_runtime.seal.key_files import PUBLIC_SUFFIX, read_public_key
from dpd_runtime.seal.signature import PublicKey

if TYPE_CHECKING:
    from dpd_runtime.bundle import Bundle

AUDITED = ("PASS", "WARN")
"""Verdicts that `require_audit` accepts; FAIL and "unaudited" it does not."""


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


def require_signature(bundle: "Bundle") -> None:
    """Raises:
    RequirementError: no trusted key has signed it.
    """
    if not bundle.signature.trusted:
        raise RequirementError(
            f"{bundle.path}: a trusted signature is required, this bundle is {bundle.signature.describe()}; "
            f"pass --trusted-key, or put the signer's .pub file into {trusted_folder()}"
        )


def require_audit(bundle: "Bundle") -> None:
    """Raises:
    RequirementError: it was not audited, or the audit failed.
    """
    if bundle.manifest.audit not in AUDITED or "audit.json" not in bundle.files:
        raise RequirementError(
            f"{bundle.path}: an audit is required ({' or '.join(AUDITED)}), this bundle is {bundle.manifest.audit}; "
            "run dpd audit where the data are"
        )
