"""`dpd sign`: the last thing that happens to a bundle before it leaves."""

from pathlib import Path
from typing import Annotated

import typer


def sign_command(
    bundle: Annotated[Path, typer.Argument(help="A .dpd file or bundle folder; bundle.sig is written into it.")],
    key: Annotated[Path, typer.Option(help="Private key of dpd keygen.")],
    passphrase_file: Annotated[
        Path | None, typer.Option(help="Passphrase of the private key in a file; or set DPD_PASSPHRASE.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check a bundle's hashes and sign its bundle.json, which lists them. An older signature is replaced.

    Whatever changes the bundle afterwards (dpd audit, dpd engines) makes a new, unsigned one: sign last, then encrypt.

    Examples: dpd sign site.dpd --key lab.key · dpd sign site.dpd --key lab.key --passphrase-file secret.txt
    """
    import os

    from dpd_cli.options import PASSPHRASE_VARIABLE
    from dpd_cli.terminal import print_json
    from dpd_runtime.bundle.keys import is_locked, read_passphrase, read_signing_key
    from dpd_runtime.sealing.sign import sign_bundle

    passphrase = read_passphrase(passphrase_file) if passphrase_file else None
    if passphrase is None and is_locked(key):
        passphrase = os.environ.get(PASSPHRASE_VARIABLE) or None
    signed = sign_bundle(bundle, read_signing_key(key, passphrase), key.stem)
    if json_output:
        print_json({"bundle": str(bundle), "hash": signed.hash, "key_id": signed.key.id, "audit": signed.audit})
        return
    print(f"bundle  {bundle}")
    print(f"hash    {signed.hash}")
    print(f"signed  by {key.stem} ({signed.key.id})")
    print(f"audit   {signed.audit}")
