"""`dpd verify`: is a bundle what it says, and does this machine compute what PyTorch computed?"""

from pathlib import Path
from typing import Annotated

import typer

from dpd_cli.options import KeyFile, PassphraseFile, RequireAudit, RequireSignature, TrustedKey


def verify_command(
    bundle: Annotated[
        Path | None, typer.Argument(help="A .dpd file or bundle folder; the embedded one without.")
    ] = None,
    provider: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    key_file: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    trusted_key: TrustedKey = None,
    require_signature: RequireSignature = False,
    require_audit: RequireAudit = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check every file's hash and the signature, then make the bundle's golden images again and compare with PyTorch's.

    Exit code 3: a file is not what bundle.json lists, or a trusted key's signature does not hold. Exit code 1: the
    images are further from PyTorch's than allowed.

    Examples: dpd verify site.dpd · dpd verify site.dpd --trusted-key lab.pub --require-signature
    """
    from dataclasses import asdict

    from dpd_cli.options import open_bundle, signature_facts
    from dpd_cli.terminal import print_json
    from dpd_runtime.checks.verify import check_replay, replay
    from dpd_runtime.generation.providers import choose_provider

    opened = open_bundle(
        bundle,
        key_file,
        passphrase_file,
        trusted_key,
        require_signature=require_signature,
        require_audit=require_audit,
    )
    manifest = opened.manifest
    chosen = choose_provider(provider, lambda found: opened.engine("latent_classifier/model.onnx", found))
    done = replay(opened, chosen)
    if json_output:
        print_json(
            {
                "bundle": str(opened.path),
                "hash": opened.hash,
                "files": len(manifest.files),
                **signature_facts(opened),
                "audit": manifest.audit,
                "precision": manifest.precision,
                "provider": chosen.name,
                "golden": None if done is None else asdict(done),
            }
        )
    else:
        print(f"{manifest.name}: {opened.path}")
        print(f"hash        {opened.hash}")
        print(f"files       {len(manifest.files)}, each with the bytes and the hash that bundle.json lists")
        print(f"signature   {opened.signature.describe()}")
        print(f"audit       {manifest.audit}")
        if done is None:
            print("golden      none in this bundle (exported by an older dpd): nothing was replayed")
        else:
            print(
                f"golden      {done.psnr_db:.1f} dB over {done.images} images, {done.worst_psnr_db:.1f} dB the worst; "
                f"{manifest.precision} needs {done.limit_db:.0f} dB"
            )
            noise = "the exporter's noise" if done.noise_matches else "other noise than the exporter's"
            print(f"            on {chosen.name} in {done.seconds:.1f} s, from {noise}")
    if done is not None:
        check_replay(done, manifest.precision, chosen.name)
