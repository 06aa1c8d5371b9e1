"""`dpd encrypt` and `dpd decrypt`: a bundle for one site's eyes, and back."""

from pathlib import Path
from typing import Annotated

import typer

from dpd_cli.options import KeyFile, PassphraseFile


def encrypt_command(
    bundle: Annotated[Path, typer.Argument(help="A .dpd file or bundle folder, signed if it shall be; not changed.")],
    out: Annotated[Path, typer.Option(help="The encrypted file, for example site.dpde.")],
    key_file: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing encrypted bundle.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Encrypt a bundle (AES-256-GCM). dpd generate, info and verify open it with the key, in memory alone.

    Examples: dpd encrypt site.dpd --out site.dpde --key-file site.key · dpd encrypt site.dpd --out site.dpde
    --passphrase-file secret.txt
    """
    from dpd_cli.options import given_key, signature_facts
    from dpd_cli.terminal import print_json
    from dpd_runtime.sealing.encrypt import encrypt_bundle

    opened = encrypt_bundle(bundle, out, given_key(key_file, passphrase_file), overwrite=overwrite)
    size = out.stat().st_size
    if json_output:
        print_json({"out": str(out), "bytes": size, "hash": opened.hash, **signature_facts(opened)})
        return
    print(f"encrypted  {out}  {size / 1e6:.1f} MB")
    print(f"hash       {opened.hash}")
    print(f"inside     {opened.manifest.name}, {opened.manifest.audit}, {opened.signature.describe()}")


def decrypt_command(
    bundle: Annotated[Path, typer.Argument(help="What dpd encrypt wrote; not changed.")],
    out: Annotated[Path, typer.Option(help="The plain .dpd file.")],
    key_file: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing bundle file.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write an encrypted bundle as a plain .dpd file. To generate from it, this is not needed.

    Example: dpd decrypt site.dpde --out site.dpd --key-file site.key
    """
    from dpd_cli.options import given_key
    from dpd_cli.terminal import print_json
    from dpd_runtime.sealing.encrypt import decrypt_bundle

    decrypt_bundle(bundle, out, given_key(key_file, passphrase_file), overwrite=overwrite)
    size = out.stat().st_size
    if json_output:
        print_json({"out": str(out), "bytes": size})
    else:
        print(f"decrypted  {out}  {size / 1e6:.1f} MB")
