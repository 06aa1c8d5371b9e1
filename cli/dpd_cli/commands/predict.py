"""`dpd predict`: label images with a classifier that `dpd fit` made, without PyTorch."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpd_cli.options import Json, RuntimeDevice, runtime_device, under
from dpd_cli.terminal import print_json, progress_bar
from dpd_runtime.errors import InputError
from dpd_runtime.files import check_file_place
from dpd_runtime.text import counted

if TYPE_CHECKING:
    from dpd_runtime.classifier import Labelled
    from dpd_runtime.engines import Provider as Chosen

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a classifier that dpd fit wrote.")]
Pictures = Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder of images, also in folders, or one image.")]
Out = Annotated[Path, under("Output", "CSV file with a line for each image: file, class, probability, reason.")]
Sheet = Annotated[
    Path | None, under("Output", "Also write a contact sheet, a PNG: a row for each class with images of that name.")
]
Provider = Annotated[
    str, under("Running", "What runs the network; auto takes the first that works.", metavar="auto|cpu|cuda")
]
Threads = Annotated[int | None, under("Running", "Threads of the CPU. Default: all cores.")]
Overwrite = Annotated[bool, under("Output", "Replace the files at --out and --sheet.", "--overwrite")]
LOWEST = 3  # folders that are named


def predict_command(
    model: Model,
    images: Pictures,
    out: Out = Path("labels.csv"),
    sheet: Sheet = None,
    provider: Provider = "auto",
    device: RuntimeDevice = "auto",
    threads: Threads = None,
    overwrite: Overwrite = False,
    json_output: Json = False,
) -> None:
    """Label images with a classifier, without PyTorch.

    Images are cropped to their middle square and resized as for the training. If the folders have the names of
    classes, it also says how many labels agree with them, else how many labels are unsure.

    Examples:
        dpd predict model/ images/ --out labels.csv
        dpd predict model/ images/ --out labels.csv --sheet labels.png
    """
    from dpd_runtime.classifier import OFFERED, images_below, label_folder, load_engine, open_classifier
    from dpd_runtime.files import write_atomically
    from dpd_runtime.formats import PNG
    from dpd_runtime.image_folders import check_apart

    if sheet is not None and sheet.suffix.lower() != ".png":
        raise InputError(f"--sheet {sheet}: the sheet is a PNG; give a name that ends in .png")
    for name, path in (("--out", out), ("--sheet", sheet)):
        if path is not None and path.exists() and not overwrite:
            raise InputError(f"{name} {path} exists; give another name, or pass --overwrite")
        if path is not None:
            check_file_place(name, path)
    if provider not in OFFERED:
        raise InputError(f"--provider {provider}: give {', '.join(OFFERED)}")
    classifier = open_classifier(model)
    if sheet is not None:
        check_apart("--sheet", sheet, images)
    files = images_below(images)
    provider, number = runtime_device(device, provider)
    chosen, engine = load_engine(classifier, provider, number, threads)
    started = time.monotonic()
    with progress_bar("labelling") as progress:
        labelled = label_folder(classifier, engine, images, files, progress)
    written = {out: labelled.to_csv()} | ({} if sheet is None else {sheet: PNG.encode(labelled.sheet)})
    for path, content in written.items():  # the sheet takes long to draw: nothing is written before
        write_atomically(path, content)
    _print(labelled, out, sheet, chosen, time.monotonic() - started, json_output)


def _print(
    labelled: "Labelled", out: Path, sheet: Path | None, provider: "Chosen", seconds: float, json_output: bool
) -> None:
    from dpd_runtime.classifier import UNSURE

    named, agreed, unsure = len(labelled.labels) - len(labelled.unread), labelled.agreement(), labelled.unsure()
    folders = labelled.agreement_of_folders()
    if json_output:
        print_json(
            {
                "out": str(out),
                "sheet": None if sheet is None else str(sheet),
                "images": named,
                "unreadable": len(labelled.unread),
                "counts": labelled.counts(),
                "agreement": agreed,
                "agreement_of_folders": None
                if folders is None
                else {n: hits / all_ for n, (hits, all_) in folders.items()},
                "unsure": {"below": UNSURE, "images": unsure, "share": unsure / named},
                "notes": list(labelled.notes),
                "provider": provider.name,
                "seconds": round(seconds, 2),
            }
        )
        return
    print(f"{counted(named, 'image')} labelled in {out}, {seconds:.1f} s on {provider.name}")
    for name, count in labelled.counts().items():
        print(f"  {count:>6} {name}")
    if labelled.unread:
        first = labelled.unread[0]
        print(f"left out  {counted(len(labelled.unread), 'file')}, first {first.file}: {first.reason}")
    for note in labelled.notes:
        print(f"note      {note}")
    if unsure or folders is None:
        print(
            f"unsure    {unsure} of {named} labels ({100 * unsure / named:.1f} %) have a probability below {UNSURE:g}"
        )
        print("          where they are many, the images are unlike those of the training")
    if agreed is not None and folders is not None:
        low = [
            f"{name} {100 * hits / count:.0f} % of {count}"
            for name, (hits, count) in folders.items()
            if hits < agreed * count
        ]
        lowest = f"; lowest: {', '.join(low[:LOWEST])}" if low else ""
        print(f"agreement {100 * agreed:.1f} % have the name of their folder{lowest}")
    if sheet is not None:
        print(f"look at   {sheet}")
