"""`dpd encrypt` and `dpd decrypt`."""

from pathlib import Path
from typing import Annotated

import typer

from dpd_cli.options import Json, KeyFile, Overwrite, PassphraseFile, given_key, under
from dpd_cli.terminal import print_json, signature_facts


def encrypt_command(
    bundle: Annotated[
        Path,
        typer.Argument(
            metavar="BUNDLE",
            help="A .dpd file or bundle folder. Sign it first if it needs a signature. The input is not modified.",
        ),
    ],
    out: Annotated[Path, under("Output", "The encrypted file, such as site.dpde.")],
    key_file: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    overwrite: Overwrite = False,
    json_output: Json = False,
) -> None:
    """Encrypt a bundle with a key or a passphrase (AES-256-GCM).

    dpd generate, dpd info and dpd verify decrypt it in memory.

    Examples:
        dpd encrypt site.dpd --out site.dpde --key-file site.key
        dpd encrypt site.dpd --out site.dpde --passphrase-file secret.txt
    """
    from dpd_runtime.sealing.encrypt import encrypt_bundle

    opened = encrypt_bundle(bundle, out, given_key(key_file, passphrase_file), overwrite=overwrite)
    size = out.stat().st_size
    if json_output:
        print_json({"out": str(out), "bytes": size, "hash": opened.hash, **signature_facts(opened)})
        return
    signature = opened.signature
    untrusted = signature.key_id is not None and not signature.trusted
    print(
        f"signature  {f'by key {signature.key_id}; a site needs its .pub file' if untrusted else signature.describe()}"
    )
    print(f"encrypted  {out}  {size / 1e6:.1f} MB")
    print(f"hash       {opened.hash}")
    print(f"inside     {opened.manifest.name}, {opened.manifest.audit}")


def decrypt_command(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A file of dpd encrypt. The input is not modified.")],
    out: Annotated[Path, under("Output", "The plain .dpd file.")],
    key_file: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    overwrite: Overwrite = False,
    json_output: Json = False,
) -> None:
    """Write an encrypted bundle as a plain .dpd file.

    dpd generate does not need this: it opens encrypted bundles itself.

    Examples:
        dpd decrypt site.dpde --out site.dpd --key-file site.key
    """
    from dpd_runtime.sealing.encrypt import decrypt_bundle

    decrypt_bundle(bundle, out, given_key(key_file, passphrase_file), overwrite=overwrite)
    size = out.stat().st_size
    if json_output:
        print_json({"out": str(out), "bytes": size})
    else:
        print(f"decrypted  {out}  {size / 1e6:.1f} MB")
