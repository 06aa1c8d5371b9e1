"""`dpd keygen`: keys that sign bundles, and keys that encrypt them."""

from pathlib import Path
from typing import Annotated

import typer


def keygen_command(
    name: Annotated[Path, typer.Argument(help="Path without ending: NAME.key is the secret, NAME.pub goes to sites.")],
    encryption: Annotated[
        bool, typer.Option("--encryption", help="32 random bytes for dpd encrypt, instead of a pair that signs.")
    ] = False,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="Encrypt the private key with the passphrase in this file.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make a new ed25519 pair (or an encryption key). Secret files can be read by nobody else; none is overwritten.

    Examples: dpd keygen lab · dpd keygen lab --passphrase-file secret.txt · dpd keygen --encryption site
    """
    from dpd_cli.terminal import print_json
    from dpd_runtime.bundle.keys import PUBLIC_SUFFIX, read_passphrase, write_encryption_key, write_signing_pair
    from dpd_runtime.bundle.trusted import trusted_folder
    from dpd_runtime.errors import InputError

    if encryption:
        if passphrase_file:
            raise InputError("--passphrase-file has no effect with --encryption: such a key is 32 plain bytes")
        secret = write_encryption_key(name)
        if json_output:
            print_json({"secret": str(secret)})
        else:
            print(f"secret  {secret}: for dpd encrypt --key-file here, and for those who shall open the bundle")
        return
    secret, public = write_signing_pair(name, read_passphrase(passphrase_file) if passphrase_file else None)
    public_file = secret.with_suffix(PUBLIC_SUFFIX)
    if json_output:
        print_json({"secret": str(secret), "public": str(public_file), "key_id": public.id})
        return
    print(f"secret  {secret}: for dpd sign --key; keep it here")
    print(f"public  {public_file}: a site trusts it in {trusted_folder()}, or by --trusted-key")
    print(f"key id  {public.id}")
