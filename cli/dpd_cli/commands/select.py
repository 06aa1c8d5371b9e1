"""`dpd select`: a real subset in the form of a distilled set."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpd_cli.options import (
    Json,
    Overwrite,
    Values,
    extras_of,
    given_values,
    named,
    options_of,
    require_torch,
    under,
)
from dpd_cli.terminal import print_json, stage_progress
from dpd_eval.options import BASELINES  # noqa: TID253 -- loads no PyTorch
from dpd_runtime.text import counted
from dpd_train.reading import ImageOptions  # noqa: TID253 -- loads no PyTorch

if TYPE_CHECKING:
    from dpd_eval.selection import RealSet

Data = Annotated[
    Path,
    typer.Argument(metavar="DATA", help="Folder with one folder of images per class. The validation part is left out."),
]
Method = Annotated[
    str,
    under(
        "Data",
        "How images are chosen; other packages add tdds, and foreground or foreground:GROUNDING_DINO+SAM2.",
        metavar=named(BASELINES),
    ),
]
Ipc = Annotated[int | None, under("Data", "Images per class. Not for full, which takes all.")]
Out = Annotated[Path, under("Output", "Folder of the real set: a new one, or one that an interrupted run left.")]
Seed = Annotated[int | None, under("Data", "Random seed of the method random. Default: 0.")]
ExtractorName = Annotated[
    str | None,
    under(
        "Model",
        "Network that computes the features: own (trained on DATA), untrained (random weights), hf:ID_OR_PATH "
        "(a model that is already on this machine) or one of another package, such as swimdiff:FOLDER (from dpd "
        "swimdiff), mdfl or mdfl:BASE (a base's denoiser). Default: own.",
    ),
]
Resolution = Annotated[int | None, under("Data", "Side of the images in pixels. Default: the side of DATA's images.")]


@options_of(ImageOptions)
def select_command(
    data: Data,
    method: Method,
    out: Out,
    ipc: Ipc = None,
    seed: Seed = None,
    extractor: ExtractorName = None,
    resolution: Resolution = None,
    overwrite: Overwrite = False,
    json_output: Json = False,
    *,
    given: Values,
) -> None:
    """Choose real images of each class, to compare a distilled set with.

    The result has the form of a distilled set, but holds real images: like the data it may not leave the site.

    Examples:
        dpd select eurosat/ --method random --ipc 10 --seed 3 --out random3
        dpd select eurosat/ --method k-center --ipc 50 --out centers
        dpd select ucmerced/ --method foreground --resolution 64 --out patches
    """
    options = ImageOptions(**given_values(given, ImageOptions, data))
    require_torch(*extras_of(options.reading, data))
    from dpd_eval.selection import select_set
    from dpd_train.scenes import open_scenes

    started = time.monotonic()
    with stage_progress() as progress:
        result = select_set(
            open_scenes(data, options),
            out,
            method=method,
            ipc=ipc,
            seed=seed,
            extractor=extractor,
            resolution=resolution,
            overwrite=overwrite,
            progress=progress,
        )
    print(f"warning: {out} holds real images; like the data it may not leave the site", file=sys.stderr)
    _print(result, data, method, time.monotonic() - started, json_output)


def _print(result: "RealSet", data: Path, method: str, seconds: float, json_output: bool) -> None:
    if json_output:
        print_json(
            {
                "out": str(result.out),
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
    print(
        f"{counted(result.images, 'real image')} of {counted(result.classes, 'class')} in {result.out}/, chosen by "
        f"{method}"
    )
    if result.extractor is not None:
        print(f"{'teacher ' if result.picture else 'features'}  {result.extractor}")
    if result.rejected:
        print(f"left out  {counted(result.rejected, 'file')} of {data} that could not be read")
    print(f"time      {seconds:.1f} s")
    print(f"set hash  {result.set_hash}")
    print(f"look at   {result.out}/contact_sheet.png{', decisions.png' if result.picture else ''}")
