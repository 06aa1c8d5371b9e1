"""`dpd fit`: a distilled set, own images and a bundle's teacher → a classifier for use."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpd_cli.options import (
    Device,
    Json,
    Key,
    Require,
    Threads,
    TrustedKey,
    Values,
    extras_of,
    given_values,
    open_teacher,
    options_of,
    require_torch,
    under,
)
from dpd_cli.terminal import print_json, progress_bar
from dpd_eval.options import FitConfig  # noqa: TID253 -- loads no PyTorch
from dpd_runtime.text import counted, shown
from dpd_train.config import check_device  # noqa: TID253 -- loads no PyTorch

if TYPE_CHECKING:
    from dpd_runtime.classifier import ClassifierRecord

Set = Annotated[Path, typer.Argument(metavar="SET", help="Folder of a distilled set, or of any labelled images.")]
Out = Annotated[Path, under("Output", "Folder of the classifier.")]
Own = Annotated[
    Path | None,
    under("Data", "The site's own labelled images. Some are held out to measure the accuracy; the others train too."),
]
Teacher = Annotated[
    Path | None,
    under(
        "Model",
        "Bundle whose classifier answers every view of the images that the network is shown, in the place of the set's "
        "labels.",
        metavar="BUNDLE",
    ),
]
Unlabelled = Annotated[
    Path | None, under("Data", "Folder of the site's own images without labels, which the --teacher answers too.")
]
Overwrite = Annotated[bool, under("Output", "Replace a classifier that exists at --out.", "--overwrite")]


@options_of(FitConfig)
def fit_command(
    distilled: Set,
    out: Out,
    own: Own = None,
    unlabelled: Unlabelled = None,
    teacher: Teacher = None,
    device: Device = "auto",
    threads: Threads = None,
    overwrite: Overwrite = False,
    json_output: Json = False,
    key: Key = None,
    trusted_key: TrustedKey = None,
    require: Require = None,
    *,
    given: Values,
) -> None:
    """Train a classifier on a distilled set, alone or with a site's own labelled images.

    It is trained like the students of dpd evaluate, and written as ONNX with its classes and a card. It runs without
    PyTorch: dpd predict. A bundle's classifier can teach it: it answers every view of the set's images, and of the
    site's own images without labels.

    Examples:
        dpd fit distilled/ --out model
        dpd fit distilled/ --teacher site.dpd --unlabelled images/ --out model
        dpd fit distilled/ --own site/ --out model
        dpd fit distilled/ --own site/ --backbone vit/ --steps 200 --out model
    """
    from dpd_runtime.classifier import check_place

    config = FitConfig(**given_values(given, FitConfig, own))
    check_device(device)
    check_place(out, overwrite)
    require_torch("export", "cpu", *extras_of(config.reading, own))
    from dpd_eval.inputs import open_fit

    asked = open_teacher(teacher, key, trusted_key, require)
    inputs = open_fit(distilled, config, own, asked, unlabelled)
    import torch

    from dpd_distill.fitting import fit_classifier

    if config.backbone is not None and teacher is None:  # a teacher tells the backbone what the codes do not show it
        line = _hint(config.network.removeprefix("hf:"), distilled, inputs.distilled.published_watchers)
        if line is not None:
            print(line, file=sys.stderr)
    started = time.monotonic()
    if threads:
        torch.set_num_threads(threads)
    with progress_bar("training the classifier") as progress:
        record = fit_classifier(inputs, out, device=device, overwrite=overwrite, progress=progress)
    _print(out, record, own, time.monotonic() - started, json_output)


def _hint(backbone: str, distilled: Path, watched: tuple[str, ...] | None) -> str | None:
    """A line where the backbone is no network that watched the codes; None where it is, or nothing is known."""
    from dpd_train.model_files import public_name

    if watched == ():
        return (
            f"warning     no published network watched the codes of {distilled}: a backbone learns little from them. "
            "Where the bundle is made: dpd data fetch, or dpd distill --watchers own,hf:MODEL"
        )
    if watched is None or public_name(backbone) in watched:
        return None
    return (
        f"note        {' and '.join(watched)} watched the codes of {distilled}, and not {public_name(backbone)}: a "
        "network that did not watch may learn less from them"
    )


def _print(out: Path, record: "ClassifierRecord", own: Path | None, seconds: float, json_output: bool) -> None:
    shares, training = record.validation, record.training
    if json_output:
        facts: dict[str, Any] = {"out": str(out), "classes": list(record.classes), "side": record.side}
        images = {name: training[name]["images"] for name in ("set", "own", "unlabelled") if name in training}
        facts |= {
            "images": images,
            "teacher": training.get("teacher"),
            "validation": dict(shares) or None,
            "set_check": training.get("set_check"),
        }
        print_json(facts | {"seconds": round(seconds, 2)})
        return
    sources = [f"{counted(training['set']['images'], 'image')} of the set"]
    sources += [f"{training['own']['images']} own ones"] if "own" in training else []
    sources += [f"{training['unlabelled']['images']} without labels"] if "unlabelled" in training else []
    print(f"trained on  {' and '.join(sources)}, {counted(len(record.classes), 'class')}")
    if teacher := training.get("teacher"):
        print(f"taught by   the classifier of bundle {teacher['bundle']}, {teacher['bundle_hash'][:12]}…")
    if shares:
        print(f"accuracy    {_accuracy(shares, 'own image', '')}")
    elif checked := training.get("set_check"):
        second = f"training with {counted(checked['steps'], 'step')}" if checked["steps"] else "fit of the last layer"
        print(f"accuracy    {_accuracy(checked, 'image', ' from the set itself')},")
        print(f"            of a second {second} on the others; the classifier has seen all")
        print("            real images may differ: give some labelled images of this site with --own")
    elif own is None:
        print("accuracy    not measured, as the set has too few images; give some of this site, labelled, with --own")
    else:
        print("accuracy    not measured, as none of the own images were held out; --val-per-class holds some out")
    print(f"classifier  {out}/, {record.network}, {record.graph.bytes / 1e6:.1f} MB, {record.side} px, {seconds:.0f} s")
    print(f"next        {shown(['dpd', 'predict', out, 'IMAGES/', '--out', 'labels.csv'])}")


def _accuracy(shares: Mapping[str, float], image: str, source: str) -> str:
    ends = f"95 % interval {100 * shares['low']:.1f} to {100 * shares['high']:.1f}"
    held = counted(int(shares["images"]), f"{image} that was held out", f"{image}s that were held out")
    return f"{100 * shares['oa']:.1f} % of {held}{source} ({ends})"
