"""`dpd info`: what a bundle holds."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from dpd_cli.options import (
    AllowOlder,
    BundleOrEmbedded,
    Json,
    KeyFile,
    PassphraseFile,
    RequireEncrypted,
    TrustedKey,
    open_bundle,
)
from dpd_cli.terminal import freshness_lines, print_json, prototype_ranges, signature_facts
from dpd_runtime.command_line import option_words, shown
from dpd_runtime.text import counted

if TYPE_CHECKING:
    from dpd_runtime.bundle.bundle import Bundle
    from dpd_runtime.bundle.manifest import Manifest


def info_command(
    bundle: BundleOrEmbedded = None,
    key_file: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    trusted_key: TrustedKey = None,
    require_encrypted: RequireEncrypted = False,
    allow_older: AllowOlder = False,
    json_output: Json = False,
) -> None:
    """Check a bundle's hashes and signature, and describe it.

    Examples:
        dpd info
        dpd info site.dpd --json
    """
    opened = open_bundle(
        bundle, key_file, passphrase_file, trusted_key, require_encrypted=require_encrypted, allow_older=allow_older
    )
    if json_output:
        _print_json(opened)
        return
    _print_bundle(opened)
    _print_content(opened)
    words = ["dpd", "generate", *([] if bundle is None else [str(bundle)])]
    options = option_words({"key_file": key_file, "passphrase_file": passphrase_file})
    for key in trusted_key or ():
        options += option_words({"trusted_key": key})
    options += option_words({"ipc": opened.usual_ipc, "out": "distilled"})
    print(f"next        {shown(words, options)}")


def _print_json(opened: "Bundle") -> None:
    from dpd_runtime.engines.record import LABELS, engine_records

    engines = engine_records(opened.files, opened.manifest.files)
    classes = [
        {"name": c.name, "prototypes": len(c.prototypes), "distinct": c.distinct_prototypes} for c in opened.classes
    ]
    states = {path: LABELS[record.flavour] for path, record in engines.items()}
    facts = {"hash": opened.hash, **signature_facts(opened), "classes": classes, "engines": states}
    print_json(facts | asdict(opened.manifest))


def _print_bundle(opened: "Bundle") -> None:
    """Who signed it, what it makes and how."""
    from dpd_runtime.dataset.card import channels_of
    from dpd_train.remarks import bundle_remarks

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
    from dpd_train.remarks import recorded_sides, size_remarks

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
    from dpd_runtime.bundle.engine_fit import what_loads
    from dpd_runtime.engines.record import LABELS, engine_records

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
    from dpd_runtime.sampling.sampler import BLOCK

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
