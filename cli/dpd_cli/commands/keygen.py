"""`dpd keygen`: keys that sign bundles, and keys that encrypt them."""

from pathlib import Path
from typing import Annotated

import typer

from dpd_cli.options import Json, under
from dpd_cli.terminal import print_json
from dpd_runtime.errors import InputError


def keygen_command(
    name: Annotated[
        Path,
        typer.Argument(metavar="NAME", help="Path without ending. NAME.key is secret; NAME.pub is for the sites."),
    ],
    encryption: Annotated[
        bool, under("Security", "Make 32 random bytes for dpd encrypt instead of a signing pair.", "--encryption")
    ] = False,
    passphrase_file: Annotated[
        Path | None, under("Security", "Encrypt the private key with the passphrase in this file.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Make a pair of ed25519 keys for signing, or an encryption key.

    Only you can read the secret files. Existing files are not overwritten.

    Examples:
        dpd keygen lab
        dpd keygen lab --passphrase-file secret.txt
        dpd keygen --encryption site
    """
    from dpd_runtime.bundle.keys import PUBLIC_SUFFIX, read_passphrase, write_encryption_key, write_signing_pair
    from dpd_runtime.bundle.trusted import place_of_trust

    if encryption:
        if passphrase_file:
            raise InputError("--passphrase-file has no effect with --encryption: such a key is 32 plain bytes")
        secret = write_encryption_key(name)
        if json_output:
            print_json({"secret": str(secret)})
        else:
            print(f"secret  {secret}: for dpd encrypt --key-file, and for everyone who may open the bundle")
        return
    secret, public = write_signing_pair(name, read_passphrase(passphrase_file) if passphrase_file else None)
    public_file = secret.with_suffix(PUBLIC_SUFFIX)
    if json_output:
        print_json({"secret": str(secret), "public": str(public_file), "key_id": public.id})
        return
    print(f"secret  {secret}: for dpd sign --key; keep it here")
    print(f"public  {public_file}: a site trusts it if it is in {place_of_trust()}, or with --trusted-key")
    print(f"key id  {public.id}")
