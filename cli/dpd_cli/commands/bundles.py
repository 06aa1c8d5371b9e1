"""`dpd sign`, `keygen`, `encrypt`, `decrypt`, `info`, `verify`: what is done with a bundle besides generating."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpd_cli.options import (
    PASSPHRASE_VARIABLE,
    AllowOlder,
    BundleOrEmbedded,
    Json,
    Key,
    Overwrite,
    Precision,
    Provider,
    Require,
    RuntimeDevice,
    TrustedKey,
    given_key,
    key_of,
    open_bundle,
    runtime_device,
    under,
)
from dpd_cli.terminal import freshness_lines, print_json, prototype_ranges, signature_facts
from dpd_runtime.errors import InputError
from dpd_runtime.text import counted, option_words, shown

if TYPE_CHECKING:
    from dpd_runtime.bundle import Bundle
    from dpd_runtime.golden import Replay
    from dpd_runtime.manifest import Manifest


# -- `dpd sign`: the last step before a bundle leaves, or the last before dpd encrypt.


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
    from dpd_runtime.sealing import sign_bundle
    from dpd_runtime.trust import is_locked, read_passphrase, read_signing_key

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


# -- `dpd keygen`: keys that sign bundles, and keys that encrypt them.


def keygen_command(
    name: Annotated[
        Path,
        typer.Argument(metavar="NAME", help="Path without ending. NAME.key is secret; NAME.pub is for others."),
    ],
    encryption: Annotated[
        bool, under("Security", "Make 32 random bytes for dpd encrypt instead of a signing pair.", "--encryption")
    ] = False,
    age: Annotated[
        bool, under("Security", "Make a site's pair of age instead: give NAME.pub to those who send bundles.", "--age")
    ] = False,
    passphrase_file: Annotated[
        Path | None, under("Security", "Encrypt the private key with the passphrase in this file.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Make a pair of signing keys, an encryption key, or a site's pair of age.

    Only you can read the secret files. Existing files are not overwritten.

    Examples:
        dpd keygen lab
        dpd keygen lab --passphrase-file secret.txt
        dpd keygen --encryption site
        dpd keygen --age site
    """
    if age:
        if encryption or passphrase_file:
            raise InputError("--age goes with neither --encryption nor --passphrase-file; leave them out")
        _make_age_pair(name, json_output)
        return
    from dpd_runtime.trust import (
        PUBLIC_SUFFIX,
        place_of_trust,
        read_passphrase,
        write_encryption_key,
        write_signing_pair,
    )

    if encryption:
        if passphrase_file:
            raise InputError("--passphrase-file has no effect with --encryption: such a key is 32 plain bytes")
        secret = write_encryption_key(name)
        if json_output:
            print_json({"secret": str(secret)})
        else:
            print(f"secret  {secret}: for dpd encrypt --key, and for everyone who may open the bundle")
        return
    secret, public = write_signing_pair(name, read_passphrase(passphrase_file) if passphrase_file else None)
    public_file = secret.with_suffix(PUBLIC_SUFFIX)
    if json_output:
        print_json({"secret": str(secret), "public": str(public_file), "key_id": public.id})
        return
    print(f"secret  {secret}: for dpd sign --key; keep it here")
    print(f"public  {public_file}: a site trusts it if it is in {place_of_trust()}, or with --trusted-key")
    print(f"key id  {public.id}")


def _make_age_pair(name: Path, json_output: bool) -> None:
    from dpd_runtime.age import write_age_pair
    from dpd_runtime.trust import PUBLIC_SUFFIX

    secret, recipient = write_age_pair(name)
    public = secret.with_suffix(PUBLIC_SUFFIX)
    if json_output:
        print_json({"secret": str(secret), "public": str(public), "recipient": recipient})
        return
    print(f"secret     {secret}: keep it at this site, for dpd generate --key")
    print(f"public     {public}: give it to those who send bundles, for dpd encrypt --to")
    print(f"recipient  {recipient}")


# -- `dpd encrypt` and `dpd decrypt`.


def encrypt_command(
    bundle: Annotated[
        Path,
        typer.Argument(
            metavar="BUNDLE",
            help="A .dpd file or bundle folder. Sign it first if it needs a signature. The input is not modified.",
        ),
    ],
    out: Annotated[Path, under("Output", "The encrypted file, such as site.dpde or site.age.")],
    key: Annotated[
        Path | None,
        under(
            "Security",
            "File of the 32 bytes of dpd keygen --encryption, or of a passphrase on one line. "
            f"Default: the passphrase in the variable {PASSPHRASE_VARIABLE}.",
        ),
    ] = None,
    to: Annotated[
        str | None,
        under(
            "Security", "Public key of age of the site, or a file with some: no secret travels, and age opens it too."
        ),
    ] = None,
    overwrite: Overwrite = False,
    json_output: Json = False,
) -> None:
    """Encrypt a bundle with a key or a passphrase, or to a site's public key.

    A key or a passphrase encrypts with AES-256-GCM; --to makes a file of age.
    dpd generate, dpd info and dpd verify decrypt it in memory.

    Examples:
        dpd encrypt site.dpd --out site.dpde --key site.key
        dpd encrypt site.dpd --out site.dpde --key secret.txt
        dpd encrypt site.dpd --out site.age --to site.pub
    """
    from dpd_runtime.age import read_recipients
    from dpd_runtime.sealing import encrypt_bundle

    if to is not None and key is not None:
        raise InputError("--key and --to are two ways to encrypt; give one of them")
    recipients = () if to is None else read_recipients(to)
    secret = given_key(key) if to is None else None
    opened = encrypt_bundle(bundle, out, secret, recipients=recipients, overwrite=overwrite)
    size = out.stat().st_size
    if json_output:
        print_json({"out": str(out), "bytes": size, "hash": opened.hash, **signature_facts(opened)})
        return
    signature = opened.signature
    untrusted = signature.key_id is not None and not signature.trusted
    print(
        f"signature  {f'by key {signature.key_id}; a site needs its .pub file' if untrusted else signature.describe()}"
    )
    way = f"to {counted(len(recipients), 'recipient')}" if recipients else "with a passphrase"
    print(f"encrypted  {out}  {size / 1e6:.1f} MB, {'with a key' if isinstance(secret, bytes) else way}")
    print(f"hash       {opened.hash}")
    print(f"inside     {opened.manifest.name}, {opened.manifest.audit}")


def decrypt_command(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A file of dpd encrypt. The input is not modified.")],
    out: Annotated[Path, under("Output", "The plain .dpd file.")],
    key: Key = None,
    overwrite: Overwrite = False,
    json_output: Json = False,
) -> None:
    """Write an encrypted bundle as a plain .dpd file.

    dpd generate does not need this: it opens encrypted bundles itself.

    Examples:
        dpd decrypt site.dpde --out site.dpd --key site.key
        dpd decrypt site.age --out site.dpd --key site.key
    """
    from dpd_runtime.archive import sealing_of
    from dpd_runtime.sealing import decrypt_bundle

    secret = key_of(bundle, key) if sealing_of(bundle) else None  # of others it says that they are used as they are
    decrypt_bundle(bundle, out, secret, overwrite=overwrite)
    size = out.stat().st_size
    if json_output:
        print_json({"out": str(out), "bytes": size})
    else:
        print(f"decrypted  {out}  {size / 1e6:.1f} MB")


# -- `dpd info`: what a bundle holds.


def info_command(
    bundle: BundleOrEmbedded = None,
    key: Key = None,
    trusted_key: TrustedKey = None,
    require: Require = None,
    allow_older: AllowOlder = False,
    json_output: Json = False,
) -> None:
    """Check a bundle's hashes and signature, and describe it.

    Examples:
        dpd info
        dpd info site.dpd --json
    """
    opened = open_bundle(bundle, key, trusted_key, require, allow_older=allow_older)
    if json_output:
        _print_json(opened)
        return
    _print_bundle(opened)
    _print_content(opened)
    words = ["dpd", "generate", *([] if bundle is None else [str(bundle)])]
    options = option_words({"key": key})
    for trusted in trusted_key or ():
        options += option_words({"trusted_key": trusted})
    options += option_words({"ipc": opened.usual_ipc, "out": "distilled"})
    print(f"next        {shown(words, options)}")


def _print_json(opened: "Bundle") -> None:
    from dpd_runtime.engine_files import LABELS, engine_records

    engines = engine_records(opened.files, opened.manifest.files)
    classes = [
        {"name": c.name, "prototypes": len(c.prototypes), "distinct": c.distinct_prototypes} for c in opened.classes
    ]
    states = {path: LABELS[record.flavour] for path, record in engines.items()}
    facts = {"hash": opened.hash, **signature_facts(opened), "classes": classes, "engines": states}
    print_json(facts | asdict(opened.manifest))


def _print_bundle(opened: "Bundle") -> None:
    """Who signed it, what it makes and how."""
    from dpd_runtime.remarks import bundle_remarks
    from dpd_runtime.set_card import channels_of

    manifest = opened.manifest
    size = sum(entry.bytes for entry in manifest.files.values())
    print(f"signature   {opened.signature.describe()}")  # first: a bundle's author chose all texts below
    for line in freshness_lines(opened):
        print(f"            {line}")
    print(f"{manifest.name}: {opened.path}")
    print(f"hash        {opened.hash}")
    print(f"state       all hashes match; audit: {manifest.audit}")
    for line in bundle_remarks(opened):
        print(f"warning     {line}")
    if manifest.privacy is not None:
        print(f"privacy     claimed: {manifest.privacy.describe()}")
    height, width, _ = manifest.image_shape
    comma = "," if manifest.bands else ""
    print(f"images      {height} x {width}{comma} {channels_of(manifest)}, latents {manifest.latent_shape}")
    for line in _told_of_size(manifest):
        print(f"            {line}")
    for band in manifest.bands:
        centre = f", {band.wavelength:g} µm" if band.wavelength else ""
        unit = f" {band.unit}" if band.unit else ""
        print(f"            band {band.name}: {band.low:g} to {band.high:g}{' dB' if band.decibels else unit}{centre}")
    print(
        f"precision   {manifest.precision}, opset {manifest.opset}, {size / 1e6:.1f} MB in "
        f"{counted(len(manifest.files), 'file')}"
    )
    print(_sampler_line(opened))
    for told in prototype_ranges(manifest.sampler):
        print(f"            images {told}")
    if manifest.watchers:
        print(f"watched by  {', '.join(manifest.watchers)}")


def _told_of_size(manifest: "Manifest") -> list[str]:
    """What the scenes lost on the way to this size; nothing where the bundle does not tell."""
    from dpd_runtime.remarks import recorded_sides, size_remarks

    sides = recorded_sides(manifest.data.get("scene_sides"))
    return [] if sides is None else size_remarks(sides, manifest.image_shape[0])


def _sampler_line(opened: "Bundle") -> str:
    sampler = opened.manifest.sampler
    if opened.manifest.codes_only:
        return f"codes-only  no UNet, text encoder or judges; at most --ipc {opened.largest_ipc}, all of them decoded"
    guidance = sampler.first_sampled()
    return (
        f"sampler     {sampler.solver}, {counted(sampler.steps, 'step')}, {counted(sampler.candidates, 'candidate')}, "
        f"guidance {guidance.guidance_scale}, prototype pull {guidance.pull}, "
        f"timestep power {sampler.timestep_power:g}, noise gain {sampler.mean_noise_gain:g}"
    )


def _print_content(opened: "Bundle") -> None:
    """Its classes, engines and licences."""
    from dpd_runtime.engine_files import LABELS, engine_records
    from dpd_runtime.tensorrt import what_loads

    for scene in opened.classes:
        noun = "codes" if scene.prototype_kind == "matched" else "prototypes"
        print(f"  {scene.name:<24} {len(scene.prototypes):>3} {noun}   {opened.prompt(scene, 0)}".rstrip())
    for repeat in _repeats(opened):
        print(f"repeats     {repeat}")
    engines = engine_records(opened.files, opened.manifest.files)
    for path, record in engines.items():
        print(f"engine      {path}  {record.bytes / 1e6:.1f} MB, {record.describe()}; {LABELS[record.flavour]}")
    if engines:
        print(f"            {what_loads(opened.signature)}")
    for part, licence in opened.manifest.licences.items():
        print(f"licence     {part}: {licence}")


def _repeats(opened: "Bundle") -> list[str]:
    """Say of which classes fewer prototypes than decoded images are different. Image i shows prototype i mod K."""
    from dpd_runtime.sampler import BLOCK

    guidance = opened.manifest.sampler.guidance
    if not guidance[0].decodes:
        return []
    lines = []
    for scene in opened.classes:
        count, distinct = len(scene.prototypes), scene.distinct_prototypes
        decoded = BLOCK * guidance[1].from_block if len(guidance) > 1 else opened.largest_ipc or count
        if 0 < distinct < max(count, decoded):
            lines.append(f"{scene.name}: {distinct} of its {max(count, decoded)} decoded images show distinct codes")
    return lines


# -- `dpd verify`: whether a bundle is unchanged, and whether this machine computes what PyTorch computed.


def verify_command(
    bundle: BundleOrEmbedded = None,
    provider: Provider = "auto",
    device: RuntimeDevice = "auto",
    precision: Precision = "fp32",
    key: Key = None,
    trusted_key: TrustedKey = None,
    require: Require = None,
    allow_older: AllowOlder = False,
    json_output: Json = False,
) -> None:
    """Check a bundle's hashes, signature and graphs, and compare its images with PyTorch's.

    The bundle's golden images are generated again and compared with those that PyTorch computed at the export. Exit
    code 3: a file differs from bundle.json, or the signature of a trusted key is wrong. Exit code 1: the images differ
    from PyTorch's by more than is allowed.

    Examples:
        dpd verify site.dpd
        dpd verify site.dpd --trusted-key lab.pub --require signature
    """
    from dpd_runtime.golden import check_replay, replay
    from dpd_runtime.networks import choose_provider, smallest_graph

    opened = open_bundle(bundle, key, trusted_key, require, allow_older=allow_older)
    opened.check_graphs()
    smallest = smallest_graph(opened)
    provider, number = runtime_device(device, provider)
    chosen = choose_provider(
        provider,
        lambda candidate: opened.engine(smallest, candidate),
        number,
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
