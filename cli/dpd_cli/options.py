"""Options with which commands open a bundle: what it was encrypted with, whose signature counts, what is demanded."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from dpd_runtime.bundle.bundle import Bundle
    from dpd_runtime.bundle.encryption import Key

PASSPHRASE_VARIABLE = "DPD_PASSPHRASE"
KeyFile = Annotated[Path | None, typer.Option(help="32-byte key file of an encrypted bundle.")]
PassphraseFile = Annotated[
    Path | None, typer.Option(help=f"Passphrase of an encrypted bundle in a file; or set {PASSPHRASE_VARIABLE}.")
]
TrustedKey = Annotated[
    list[Path] | None,
    typer.Option(help="Public key whose signature counts, once for each; without it those of ~/.config/dpd/trusted."),
]
RequireSignature = Annotated[
    bool, typer.Option("--require-signature", help="Fail (exit 3) unless a trusted key has signed the bundle.")
]
RequireAudit = Annotated[
    bool, typer.Option("--require-audit", help="Fail (exit 3) unless the bundle's audit says PASS or WARN.")
]


def open_bundle(
    bundle: Path | None,
    key_file: Path | None,
    passphrase_file: Path | None,
    trusted_key: list[Path] | None,
    *,
    require_signature: bool = False,
    require_audit: bool = False,
) -> "Bundle":
    """The embedded bundle for None. Everything that is asked of it was checked when this returns."""
    from dpd_runtime.bundle.bundle import embedded_bundle, load_bundle
    from dpd_runtime.bundle.keys import read_public_key
    from dpd_runtime.sealing import require

    path = bundle or embedded_bundle()
    trusted = tuple(read_public_key(file) for file in trusted_key) if trusted_key else None
    opened = load_bundle(path, key_of(path, key_file, passphrase_file), trusted)
    if require_signature:
        require.require_signature(opened)
    if require_audit:
        require.require_audit(opened)
    return opened


def given_key(key_file: Path | None, passphrase_file: Path | None) -> "Key | None":
    """What the options say, else the environment.

    Raises:
        InputError: both options, or a file that holds no key.
    """
    from dpd_runtime.bundle.keys import read_encryption_key, read_passphrase
    from dpd_runtime.errors import InputError

    if key_file and passphrase_file:
        raise InputError("--key-file and --passphrase-file: a bundle has one of them, give that one")
    if key_file:
        return read_encryption_key(key_file)
    if passphrase_file:
        return read_passphrase(passphrase_file)
    return os.environ.get(PASSPHRASE_VARIABLE) or None


def key_of(path: Path, key_file: Path | None, passphrase_file: Path | None) -> "Key | None":
    """The key to open `path` with. The environment may hold one for other bundles; an option is meant for this one."""
    from dpd_runtime.bundle.encryption import is_encrypted

    if key_file or passphrase_file or is_encrypted(path):
        return given_key(key_file, passphrase_file)
    return None


def signature_facts(bundle: "Bundle") -> dict[str, Any]:
    """For --json."""
    signature = bundle.signature
    return {"signature": signature.describe(), "key_id": signature.key_id, "trusted": signature.trusted}
