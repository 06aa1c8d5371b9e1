"""`dpd verify`: whether a bundle is unchanged, and whether this machine computes what PyTorch computed."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dpd_cli.options import (
    AllowOlder,
    BundleOrEmbedded,
    Gpu,
    Json,
    KeyFile,
    PassphraseFile,
    Precision,
    Provider,
    RequireAudit,
    RequireDp,
    RequireEncrypted,
    RequireSignature,
    TrustedKey,
    open_bundle,
)
from dpd_cli.terminal import freshness_lines, print_json, signature_facts

if TYPE_CHECKING:
    from dpd_runtime.bundle.bundle import Bundle
    from dpd_runtime.generation.replay import Replay


def verify_command(
    bundle: BundleOrEmbedded = None,
    provider: Provider = "auto",
    device: Gpu = None,
    precision: Precision = "fp32",
    key_file: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    trusted_key: TrustedKey = None,
    require_signature: RequireSignature = False,
    require_audit: RequireAudit = False,
    require_dp: RequireDp = None,
    require_encrypted: RequireEncrypted = False,
    allow_older: AllowOlder = False,
    json_output: Json = False,
) -> None:
    """Check a bundle's hashes and signature, and compare its images with PyTorch's.

    The bundle's golden images are generated again and compared with those that PyTorch computed at the export. Exit
    code 3: a file differs from bundle.json, or the signature of a trusted key is wrong. Exit code 1: the images differ
    from PyTorch's by more than is allowed.

    Examples:
        dpd verify site.dpd
        dpd verify site.dpd --trusted-key lab.pub --require-signature
    """
    from dpd_runtime.generation.networks import smallest_graph
    from dpd_runtime.generation.providers import choose_provider
    from dpd_runtime.generation.replay import check_replay, replay

    opened = open_bundle(
        bundle,
        key_file,
        passphrase_file,
        trusted_key,
        require_signature=require_signature,
        require_audit=require_audit,
        require_dp=require_dp,
        require_encrypted=require_encrypted,
        allow_older=allow_older,
    )
    smallest = smallest_graph(opened)
    chosen = choose_provider(
        provider,
        lambda candidate: opened.engine(smallest, candidate),
        device,
        precision,
        listed=opened.host.available_providers,
    )
    used = chosen.computes_in(opened.manifest.precision)
    done = replay(opened, chosen)
    if json_output:
        print_json(_facts(opened, chosen.name, used, done))
    else:
        _print(opened, chosen.name, used, done)
    if done is not None:
        check_replay(done, used, chosen.name)


def _facts(opened: "Bundle", provider: str, precision: str, done: "Replay | None") -> dict[str, Any]:
    manifest = opened.manifest
    return {
        "bundle": str(opened.path),
        "hash": opened.hash,
        "files": len(manifest.files),
        **signature_facts(opened),
        "audit": manifest.audit,
        "privacy": None if manifest.privacy is None else asdict(manifest.privacy),
        "precision": precision,
        "provider": provider,
        "golden": None if done is None else asdict(done),
    }


def _print(opened: "Bundle", provider: str, precision: str, done: "Replay | None") -> None:
    manifest = opened.manifest
    print(f"signature   {opened.signature.describe()}")  # first: a bundle's author chose all texts below
    for line in freshness_lines(opened):
        print(f"            {line}")
    print(f"{manifest.name}: {opened.path}")
    print(f"hash        {opened.hash}")
    print(f"files       {len(manifest.files)}, all with the size and the hash that bundle.json lists")
    print(f"audit       {manifest.audit}")
    if manifest.privacy is not None:
        print(f"privacy     {manifest.privacy.describe()}")
    if done is None:
        print("golden      none in this bundle (exported by an older dpd): images were not compared")
        return
    several = f"over {done.images} images, {done.worst_psnr_db:.1f} dB the worst" if done.images > 1 else "of one image"
    print(f"golden      {done.psnr_db:.1f} dB {several}; {precision} needs {done.limit_db:.0f} dB")
    noise = "the exporter's noise" if done.noise_matches else "other noise than the exporter's"
    begun = "the bundle's codes" if manifest.codes_only else noise
    print(f"            on {provider} in {done.seconds:.1f} s, from {begun}")
