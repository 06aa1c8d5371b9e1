"""`dpd select`: a real subset in the form of a distilled set."""

from pathlib import Path
from typing import Annotated

import typer


def select_command(
    data: Annotated[Path, typer.Argument(help="Class-per-folder tree; images are taken from its training part.")],
    method: Annotated[str, typer.Option(help="random, herding, k-center, k-means, tdds, foreground or full.")],
    out: Annotated[Path, typer.Option(help="Folder of the real set: a new one, or what an interrupted select left.")],
    ipc: Annotated[int | None, typer.Option(help="Images per class; full takes all and refuses it.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of random, the one method that draws (default: 0)")] = None,
    val_per_class: Annotated[int | None, typer.Option(help="Validation images a class (default: n // 10)")] = None,
    extractor: Annotated[
        str | None,
        typer.Option(help="Whose features: own, trained on DATA (default), or hf:ID_OR_PATH, on this machine already."),
    ] = None,
    segmenter: Annotated[
        str | None,
        typer.Option(
            help="What foreground finds objects by: GROUNDING_DINO,SAM2, ids or folders on this machine already "
            "(default: saliency)"
        ),
    ] = None,
    resolution: Annotated[int | None, typer.Option(help="Side of the images in pixels (default: DATA's)")] = None,
    bands: Annotated[str | None, typer.Option(help="Bands of the images for red, green, blue: 4,3,2.")] = None,
    stretch: Annotated[
        str | None, typer.Option(help="Percentiles such as 2,98, or pixel values such as 0:3000, for black and white.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete a distilled set that is in the way.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Choose real images by class: the subsets that a distilled set has to stand beside. They may not leave the site.

    Examples:

        dpd select eurosat/ --method random --ipc 10 --seed 3 --out random3

        dpd select eurosat/ --method k-center --ipc 50 --val-per-class 100 --out centers

        dpd select ucmerced/ --method foreground --resolution 64 --ipc 10 --out patches
    """
    import sys
    import time

    from dpd_cli.commands.torch_half import require_torch
    from dpd_cli.terminal import print_json, stage_progress

    require_torch()
    from dpd_eval.selection.real_set import select_set
    from dpd_train.images import parse_reading

    started = time.monotonic()
    with stage_progress() as progress:
        result = select_set(
            data,
            out,
            method=method,
            ipc=ipc,
            seed=seed,
            val_per_class=val_per_class,
            extractor=extractor,
            segmenter=segmenter,
            resolution=resolution,
            reading=parse_reading(bands, stretch),
            overwrite=overwrite,
            progress=progress,
        )
    seconds = time.monotonic() - started
    print(f"warning: {out} holds real images; like the data it may not leave the site", file=sys.stderr)
    if json_output:
        print_json(
            {
                "out": str(out),
                "method": method,
                "images": result.images,
                "classes": result.classes,
                "extractor": result.extractor,
                "rejected": result.rejected,
                "real_images": True,
                "seconds": round(seconds, 2),
                "set_hash": result.set_hash,
            }
        )
        return
    print(f"{result.images} real images of {result.classes} classes in {out}/, chosen by {method}")
    if result.extractor is not None:
        print(f"{'teacher ' if method == 'foreground' else 'features'}  {result.extractor}")
    if result.rejected:
        print(f"left out  {result.rejected} files of {data} that could not be read")
    print(f"time      {seconds:.1f} s")
    print(f"set hash  {result.set_hash}")
    print(f"look at   {out}/contact_sheet.png{', decisions.png' if method == 'foreground' else ''}")
