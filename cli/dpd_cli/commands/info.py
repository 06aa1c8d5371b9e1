"""`dpd info`: what a bundle holds."""

from pathlib import Path
from typing import Annotated

import typer

from dpd_cli.options import KeyFile, PassphraseFile, TrustedKey


def info_command(
    bundle: Annotated[
        Path | None, typer.Argument(help="A .dpd file or bundle folder; the embedded one without.")
    ] = None,
    key_file: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    trusted_key: TrustedKey = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Verify a bundle's hashes and signature and describe it.

    Examples: dpd info · dpd info site.dpd --json
    """
    from dataclasses import asdict

    from dpd_cli.commands.image_ranges import prototype_ranges
    from dpd_cli.options import open_bundle, signature_facts
    from dpd_cli.terminal import print_json
    from dpd_runtime.bundle.engine_fit import why_not_loaded
    from dpd_runtime.engines.record import LABELS, engine_records

    opened = open_bundle(bundle, key_file, passphrase_file, trusted_key)
    manifest = opened.manifest
    engines = engine_records(opened.files, manifest.files)
    if json_output:
        classes = [{"name": c.name, "prototypes": len(c.prototypes)} for c in opened.classes]
        states = {path: LABELS[record.flavour] for path, record in engines.items()}
        print_json(
            {"hash": opened.hash, **signature_facts(opened), "classes": classes, "engines": states, **asdict(manifest)}
        )
        return
    size = sum(entry.bytes for entry in manifest.files.values())
    guidance = manifest.sampler.first_drawn()
    print(f"{manifest.name}: {opened.path}")
    print(f"hash        {opened.hash}")
    print(f"state       every listed file has its hash; audit: {manifest.audit}; {opened.signature.describe()}")
    print(f"images      {manifest.image_shape[0]} x {manifest.image_shape[1]} RGB, latents {manifest.latent_shape}")
    print(
        f"precision   {manifest.precision}, opset {manifest.opset}, {size / 1e6:.1f} MB in {len(manifest.files)} files"
    )
    print(
        f"sampler     {manifest.sampler.solver}, {manifest.sampler.steps} steps, "
        f"{manifest.sampler.candidates} candidates, "
        f"guidance {guidance.guidance_scale}, prototype pull {guidance.prototype_scale}, "
        f"timestep power {manifest.sampler.timestep_power:g}, noise gain {manifest.sampler.mean_noise_gain:g}"
    )
    for told in prototype_ranges(manifest.sampler):
        print(f"            images {told}")
    for scene in opened.classes:
        print(f"  {scene.name:<24} {len(scene.prototypes):>3} prototypes   {opened.prompts[scene.prompt_rows[0]]}")
    for path, record in engines.items():
        print(f"engine      {path}  {record.bytes / 1e6:.1f} MB, {record.describe()}; {LABELS[record.flavour]}")
    if engines:
        print(f"            {why_not_loaded(opened.signature)}; ONNX Runtime runs the graphs")
    for part, licence in manifest.licences.items():
        print(f"licence     {part}: {licence}")
