"""`dpd sign`: the last step before a bundle leaves, or the last before dpd encrypt."""

import os
from pathlib import Path
from typing import Annotated

import typer

from dpd_cli.options import PASSPHRASE_VARIABLE, Json, under
from dpd_cli.terminal import print_json


def sign_command(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="A .dpd file or bundle folder; bundle.sig is written into it.")
    ],
    key: Annotated[Path, under("Security", "Private key of dpd keygen.")],
    passphrase_file: Annotated[
        Path | None,
        under("Security", f"File with the passphrase of the key. Default: the variable {PASSPHRASE_VARIABLE}."),
    ] = None,
    serial: Annotated[
        int | None,
        under(
            "Security",
            "Number of this version: sites refuse smaller ones. Default: the time in seconds since 1970, if this "
            "machine's clock agrees with the last serial and the dates of files.",
            metavar="N",
        ),
    ] = None,
    expires: Annotated[
        str, under("Security", "Last day on which it may be used. Default: no end.", metavar="YYYY-MM-DD")
    ] = "",
    json_output: Json = False,
) -> None:
    """Check a bundle's hashes and sign it.

    The signature covers bundle.json, which lists the hashes and gets the serial and the last day; an older signature is
    replaced. A site that trusts the key refuses a smaller serial of the same name than it has seen. dpd audit and
    dpd engines write new, unsigned bundles: sign after them, and encrypt last.

    Examples:
        dpd sign site.dpd --key lab.key
        dpd sign site.dpd --key lab.key --expires 2027-12-31
        dpd sign site.dpd --key lab.key --passphrase-file secret.txt
    """
    from dpd_runtime.bundle.keys import is_locked, read_passphrase, read_signing_key
    from dpd_runtime.sealing.sign import sign_bundle

    passphrase = read_passphrase(passphrase_file) if passphrase_file else None
    if passphrase is None and is_locked(key):
        passphrase = os.environ.get(PASSPHRASE_VARIABLE) or None
    signed = sign_bundle(bundle, read_signing_key(key, passphrase), key.stem, serial=serial, expires=expires)
    if json_output:
        facts = {"hash": signed.hash, "key_id": signed.key.id, "audit": signed.audit}
        print_json(
            {"bundle": str(bundle), **facts, "serial": signed.serial, "expires": signed.expires, "note": signed.note}
        )
        return
    print(f"bundle  {bundle}")
    print(f"hash    {signed.hash}")
    print(f"signed  by {key.stem} ({signed.key.id})")
    print(f"serial  {signed.serial}, {f'until {expires}' if expires else 'without an end'}")
    if signed.note:
        print(f"        {signed.note}")
    print(f"audit   {signed.audit}")
