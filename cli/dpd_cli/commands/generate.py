"""`dpd generate`: a bundle → a distilled set."""

from pathlib import Path
from typing import Annotated

import typer

from dpd_cli.options import KeyFile, PassphraseFile, RequireAudit, RequireSignature, TrustedKey


def generate_command(
    bundle: Annotated[
        Path | None, typer.Argument(help="A .dpd file or bundle folder; without it the embedded EuroSAT bundle.")
    ] = None,
    ipc: Annotated[int, typer.Option(help="Images per class.")] = 10,
    out: Annotated[Path, typer.Option(help="Folder of the distilled set; an unfinished one is completed.")] = Path(
        "distilled"
    ),
    seed: Annotated[int, typer.Option(help="The same seed gives the same pixels.")] = 0,
    classes: Annotated[str | None, typer.Option(help="Comma-separated class names; all by default.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Solver steps (default: the bundle's); asks for drawn images.")
    ] = None,
    solver: Annotated[
        str | None,
        typer.Option(help="dpm++2m, unipc, ddim or euler; lcm or tcd for models distilled so; asks for drawn images."),
    ] = None,
    candidates: Annotated[
        int | None, typer.Option(help="Candidates for each kept image; asks for drawn images.")
    ] = None,
    guidance_scale: Annotated[
        float | None, typer.Option(help="Classifier-free guidance, 1 is none; asks for drawn images.")
    ] = None,
    provider: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    format_name: Annotated[
        str, typer.Option("--format", help="imagefolder, webdataset, parquet or npz.")
    ] = "imagefolder",
    image_format: Annotated[
        str | None, typer.Option(help="png (the default), jpeg, webp or tiff; jpeg and webp are lossy.")
    ] = None,
    soft_labels: Annotated[
        bool, typer.Option("--soft-labels", help="The bundle's teacher says how much each image is of each class.")
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(
            help="i/n: every n-th block from the i-th (from 0) on; all n with the same --out, which they share."
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(help='Compute on a Ray cluster: its address, or local. Needs pip install "dpd-distill\\[ray]".'),
    ] = None,
    expect: Annotated[str | None, typer.Option(help="Fail (exit 1) unless the set hash is this one.")] = None,
    key_file: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    trusted_key: TrustedKey = None,
    require_signature: RequireSignature = False,
    require_audit: RequireAudit = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete a distilled set that is in the way.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Regenerate a training set from a bundle, with numpy and ONNX Runtime only.

    Where the bundle has matched prototypes, the first images of a class are these, decoded; options that ask for drawn
    images put drawn ones in their place.

    Examples: dpd generate --ipc 10 --out distilled · dpd generate site.dpd --ipc 50 --seed 3 --out set3 ·
    dpd generate site.dpd --ipc 50 --format parquet --soft-labels --out table ·
    dpd generate site.dpd --ipc 500 --shard 3/16 --out /shared/set ·
    dpd generate site.dpde --passphrase-file secret.txt --require-signature --out distilled
    """
    import time

    from dpd_cli.commands.image_ranges import prototype_ranges
    from dpd_cli.options import open_bundle
    from dpd_cli.terminal import print_json, progress_bar
    from dpd_runtime.dataset.folder import remove_set
    from dpd_runtime.dataset.formats import Output
    from dpd_runtime.dataset.shards import WHOLE, parse_shard
    from dpd_runtime.dataset.write import write_set
    from dpd_runtime.errors import InputError, SetHashError
    from dpd_runtime.generation.generate import generate, resolve_sampler
    from dpd_runtime.generation.teacher import check_teacher

    part = WHOLE if shard is None else parse_shard(shard)
    if overwrite and part != WHOLE:
        raise InputError("--overwrite with --shard would delete what other shards have made: remove the set first")
    output = Output(format_name, image_format, soft_labels)
    output.check()
    opened = open_bundle(
        bundle,
        key_file,
        passphrase_file,
        trusted_key,
        require_signature=require_signature,
        require_audit=require_audit,
    )
    if soft_labels:
        check_teacher(opened)
    sampler = resolve_sampler(
        opened.manifest.sampler, steps=steps, solver=solver, candidates=candidates, guidance_scale=guidance_scale
    )
    names = None if classes is None else tuple(name.strip() for name in classes.split(","))
    if ray is None:
        generation = generate(opened, ipc=ipc, seed=seed, classes=names, sampler=sampler, provider=provider)
    else:
        from dpd_runtime.generation.ray import RayGeneration

        generation = RayGeneration(opened, ipc=ipc, seed=seed, classes=names, sampler=sampler, provider=provider)
        generation.connect(ray)
    if overwrite:
        remove_set(out)
    started = time.monotonic()
    with progress_bar("generating") as progress:
        result = write_set(generation, out, progress, output, part)
    seconds = time.monotonic() - started
    if json_output:
        print_json(
            {
                "out": str(out),
                "images": result.images,
                "classes": result.classes,
                "seconds": round(seconds, 2),
                "images_per_second": round(result.computed / seconds, 3),
                "network_calls": generation.network_calls,
                "provider": generation.provider.name,
                "set_hash": result.set_hash,
            }
        )
    else:
        whose = f"shard {part}: " if result.set_hash is None else ""
        print(f"{whose}{result.images} images of {result.classes} classes in {out}/ ({result.computed} computed now)")
        print(f"bundle    {opened.manifest.name}, {opened.manifest.audit}, {opened.signature.describe()}")
        print(f"provider  {generation.provider.name}: {generation.provider.reason}")
        calls = generation.network_calls * sampler.candidates
        told = prototype_ranges(opened.manifest.sampler)
        if told and not sampler.guidance[0].decodes:
            print("images    all drawn, for the options that say how; without them")
        for line in told:
            print(f"images    {line}")
        print(f"time      {seconds:.1f} s, {calls:.3g} UNet evaluations for each kept image")
        if result.set_hash is None:
            print(f"set hash  none yet: {result.left} images are left to other shards, the last one ends the set")
        else:
            print(f"set hash  {result.set_hash}")
            print(f"look at   {out}/contact_sheet.png")
    if expect is not None and result.set_hash is not None and result.set_hash != expect:
        raise SetHashError(result.set_hash, expect)
