"""`dpd evaluate`: what a distilled set is worth, beside real subsets of the same size."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

if TYPE_CHECKING:
    from dpd_eval.comparison.config import Baseline


def split_names(text: str) -> tuple[str, ...]:
    """`a, b` → ("a", "b"); empty text is an empty tuple."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def split_numbers(text: str, option: str) -> tuple[int, ...]:
    """`10,50` → (10, 50).

    Raises:
        InputError: something that is not a whole number, naming the option.
    """
    from dpd_runtime.errors import InputError

    try:
        return tuple(int(part) for part in split_names(text))
    except ValueError:
        raise InputError(f"{option} {text}: give whole numbers with commas between them, such as 10,50") from None


def evaluate_command(
    sets: Annotated[
        list[Path], typer.Argument(metavar="SET...", help="Distilled sets (class folders); pair i uses SET i mod m.")
    ],
    train: Annotated[Path, typer.Option(help="Labelled real images; baselines draw from the training part.")],
    test: Annotated[str, typer.Option(help="Folder of test images, or 'val': the validation part of --train.")],
    students: Annotated[
        str,
        typer.Option(
            help="With commas: convnet, resnet, resnet18, mobilenetv2, vit-tiny, dsdnet:convnet (dsdnet:resnet, ...), "
            "hf:ID_OR_PATH."
        ),
    ] = "convnet",
    baselines: Annotated[
        str, typer.Option(help="With commas: random, herding, k-center, k-means, tdds, foreground, full; '' for none.")
    ] = "random",
    ipc: Annotated[str | None, typer.Option(help="Images a class, with commas (default: all of SET's)")] = None,
    recipe: Annotated[str, typer.Option(help="quick, paper or the path of a .toml file.")] = "quick",
    pairs: Annotated[int | None, typer.Option(help="Paired runs (default: 8 up to IPC 10, 5 above)")] = None,
    at_least: Annotated[
        float, typer.Option(help="Say whether the set reaches this share of each baseline's accuracy.")
    ] = 1.0,
    soft_labels: Annotated[
        bool, typer.Option("--soft-labels", help="Students of every arm learn one teacher's probabilities.")
    ] = False,
    metrics: Annotated[
        bool, typer.Option("--metrics/--no-metrics", help="Compare the arms' images with the real ones, in features.")
    ] = True,
    extractor: Annotated[
        str | None,
        typer.Option(
            help="Whose features: own, trained on --train (default), or hf:ID_OR_PATH, on this machine already."
        ),
    ] = None,
    segmenter: Annotated[
        str | None,
        typer.Option(
            help="What the baseline foreground finds objects by: GROUNDING_DINO,SAM2, ids or folders on this machine "
            "already (default: saliency)"
        ),
    ] = None,
    val_per_class: Annotated[int | None, typer.Option(help="Validation images a class (default: n // 10)")] = None,
    resolution: Annotated[int | None, typer.Option(help="Side of every image in pixels (default: SET's)")] = None,
    bands: Annotated[str | None, typer.Option(help="Bands of the real images for red, green, blue: 4,3,2.")] = None,
    stretch: Annotated[
        str | None, typer.Option(help="Percentiles such as 2,98, or pixel values such as 0:3000, for black and white.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Processes, one thread each; figures do not depend on it.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Write the JSON result to this file too.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
) -> None:
    """Train students on SET and on real subsets, with one recipe, and compare them in pairs.

    Examples:

        dpd evaluate set/ --train data/train --test val --ipc 10

        dpd evaluate set0/ set1/ set2/ --train data/train --test data/test --pairs 6 --jobs 2 --out result.json

        dpd evaluate set/ --train data/train --test data/test --ipc 10,50 --baselines random,herding,k-means,full

        dpd evaluate set/ --train data/train --test data/test --students convnet,resnet,vit-tiny --soft-labels
    """
    from dpd_cli.commands.evaluation_tables import print_evaluation
    from dpd_cli.commands.torch_half import require_torch
    from dpd_cli.terminal import Update, print_json, stage_progress
    from dpd_runtime.errors import InputError

    if out is not None and not out.parent.is_dir():
        raise InputError(f"--out {out}: the folder {out.parent} does not exist; create it first")
    if out is not None and out.is_dir():
        raise InputError(f"--out {out}: is a folder; give the name of a file")
    sizes = None if ipc is None else split_numbers(ipc, "--ipc")

    require_torch()
    from dpd_eval import EvaluateConfig, evaluate

    with stage_progress() as stage:
        bar: list[Update] = []

        def tell(done: float, total: int, what: str) -> None:
            if not bar:
                bar.append(stage("training students, %"))
            bar[0](round(100 * done / total), 100)  # a training has parts: percent moves where a count stands still

        config = EvaluateConfig(
            students=split_names(students),
            baselines=cast("tuple[Baseline, ...]", split_names(baselines)),
            ipc=sizes,
            recipe=recipe,
            pairs=pairs,
            at_least=at_least,
            soft_labels=soft_labels,
            metrics=metrics,
            extractor=extractor,
            segmenter=segmenter,
            val_per_class=val_per_class,
            resolution=resolution,
            bands=bands,
            stretch=stretch,
            jobs=jobs,
        )
        where: Path | Literal["val"] = "val" if test == "val" else Path(test)
        result = evaluate(sets, config, train=train, test=where, progress=tell, stage=stage)
    if out is not None:
        out.write_text(json.dumps(result.to_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if json_output:
        print_json(result.to_dict())
    else:
        print_evaluation(result)
