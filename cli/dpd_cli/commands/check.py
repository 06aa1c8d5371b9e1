"""`dpd check`: what a data set is like, before the long run."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpd_cli.options import Json, Threads, Values, extras_of, given_values, options_of, require_torch, under
from dpd_cli.terminal import beside_idle, duration, print_json, progress_bar
from dpd_runtime.errors import InputError
from dpd_runtime.text import counted, option_words, shown
from dpd_train.reading import ImageOptions  # noqa: TID253 -- loads no PyTorch

if TYPE_CHECKING:
    from dpd_train.scenes import Look, Sample

Data = Annotated[Path, typer.Argument(metavar="DATA", help="A folder of class folders, or a .csv or .parquet list.")]
Base = Annotated[str, under("Data", "Base model that dpd distill will use: nano, a diffusers folder or a hub id.")]
Resolution = Annotated[int | None, under("Data", "Side of the images in pixels. Default: the base's own.")]
Write = Annotated[
    bool, under("Output", "Write these options, or those suggested, as the data card DATA/dpd.toml.", "--write")
]
SHOWN = 5  # reasons that are named
NUMBER = re.compile(r"\d+")  # reasons that differ in a number count as one
Shared = dict[tuple[str, str], int]


@options_of(ImageOptions)
def check_command(
    data: Data,
    base: Base = "nano",
    resolution: Resolution = None,
    write: Write = False,
    threads: Threads = None,
    json_output: Json = False,
    *,
    given: Values,
) -> None:
    """Look at a data set before the long run. Nothing is written but, with --write, the data card.

    Decodes a sample of every class, says which files will be set aside and how to read them instead, looks for scenes
    that are in several parts, and says what an audit can decide and how long dpd distill will take.

    Examples:
        dpd check scenes/
        dpd check sentinel2/ --bands 4,3,2 --stretch 2,98
        dpd check sentinel2/ --bands all
        dpd check sentinel2/ --bands 4,3,2 --val-per-class 20 --write
    """
    values = given_values(given, ImageOptions, data)
    options = ImageOptions(**values)
    require_torch("train", "eval", *extras_of(options.reading, data))
    from dpd_distill.distillation import audit_remarks, networks_for, scene_remarks
    from dpd_distill.kept_speed import speed_here
    from dpd_distill.plan import MINUTES, QUICK_MINUTES, make_plan, on_idle_cores, remarks, task_of
    from dpd_runtime.machine import idle_cores, usable_cores
    from dpd_train.base_files import check_base_bands
    from dpd_train.config import TrainConfig
    from dpd_train.data_card import FIELDS, write_card
    from dpd_train.run import check_base_at, check_classes, check_matched_counts, fate_of_scenes
    from dpd_train.scenes import look_at, open_scenes

    say = _silent if json_output else _say
    check_base_at(base, resolution)
    scenes = open_scenes(data, options)
    files = scenes.counts("train")
    check_classes(data, tuple(files))
    look = look_at(scenes)
    check_base_bands(base, look.bands)
    suggested = _named(look.suggestion[0]) if look.suggestion is not None else {}
    if write:
        chosen = suggested | values
        kept = {name: chosen[name] for name in FIELDS if name in chosen}
        if not kept:
            raise InputError("--write: no option was given and none is suggested, so the card would say nothing")
        place = write_card(data, kept)
        say(f"card          {place}: {', '.join(f'{name} {value}' for name, value in kept.items())}")
        options = ImageOptions(**chosen)
        scenes = open_scenes(data, options)
        look = look_at(scenes)
    fate = fate_of_scenes(look.sample.sides, base, resolution)
    say(*_of_files(files, look), *(f"note          {line}" for line in fate))
    with progress_bar("looking for near duplicates"):
        shared = scenes.shared()
        found, held = scenes.counted("train"), scenes.counted("val")
    found.check(data)
    counts = found.scenes
    for (first, second), count in shared.items():
        show = counted(count, f"file of {second} shows scenes", f"files of {second} show scenes")
        say(f"shared        {show} of {first}: figures on {second} will be too good")
    if options.reading.carries:
        check_matched_counts(counts, carried=True)
    task = task_of(counts, held=sum(held.scenes.values()), own_vae=bool(look.bands))
    watchers, judge, seen = networks_for(task)
    notes = [*look.notes, *scene_remarks(found), *remarks(counts, task), *audit_remarks(held), *seen]
    say(*(f"note          {line}" for line in notes))
    config = TrainConfig(
        base=base, ipc=task.ipc, steps=1, resolution=resolution, watchers=watchers, **options.image_options
    )
    threads = threads or idle_cores()
    with progress_bar("measuring") as progress:
        alone, share = speed_here(config, threads, progress, say, len(look.bands), judge)
    speed = alone.beside_others(share)
    plans = {
        "usual": make_plan(task, speed, MINUTES),
        "least": make_plan(task, speed, 0),
        "quick": make_plan(task_of(counts, quick=True, own_vae=bool(look.bands)), speed, QUICK_MINUTES),
    }
    seconds = {name: plan.longest if name == "least" else plan.total for name, plan in plans.items()}
    idle = {name: on_idle_cores(each, share, threads, usable_cores()) for name, each in seconds.items()}
    if json_output:
        facts: dict[str, Any] = {"train": found.images, "scenes": found.scenes, "notes": [*fate, *notes]}
        facts |= {"seconds": seconds, "idle_seconds": idle}
        facts["data_card"] = None if scenes.card is None else str(scenes.card.path)
        print_json(_facts(look, shared) | facts)
        return
    usual, quick = (f"{duration(seconds[name])}{beside_idle(seconds[name], idle[name])}" for name in ("usual", "quick"))
    print(f"time          dpd distill: {usual}; at least {duration(seconds['least'])}")
    print(f"              dpd distill --quick: {quick}")
    said = set() if scenes.card is None else scenes.card.values.keys()
    repeated = {name: value for name, value in (suggested | values).items() if name not in said}
    repeated |= {"base": base if base != "nano" else None, "resolution": resolution}
    repeating = [*option_words(repeated), ("--out", "look.dpd"), ("--quick",)]
    print(f"next          {shown(['dpd', 'distill', str(data)], repeating)}")


def _named(options: str) -> dict[str, str]:
    """`--bands 4,3,2 --stretch 2,98` by name."""
    words = options.split()
    return dict(zip((name.removeprefix("--") for name in words[::2]), words[1::2], strict=True))


def _facts(look: "Look", shared: Shared) -> dict[str, Any]:
    suggestion = look.suggestion and {"options": look.suggestion[0], "sample": _sample(look.suggestion[1])}
    listed = [{"part": first, "with": second, "files": count} for (first, second), count in shared.items()]
    return {"counts": look.counts, "sample": _sample(look.sample), "suggestion": suggestion, "shared": listed}


def _sample(sample: "Sample") -> dict[str, Any]:
    return asdict(sample) | {"usable": sample.usable}


def _say(*lines: str) -> None:
    for line in lines:
        print(line, flush=True)


def _silent(*lines: str) -> None:
    pass


def _of_files(counts: Mapping[str, int], look: "Look") -> Iterator[str]:
    """What the files are like, one line each."""
    fewest, most = min(counts.values()), max(counts.values())
    each = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    yield f"data          {counted(len(counts), 'class')} with {each} training images, {sum(counts.values())} in all"
    for part, of_class in look.counts.items():
        if part != "all":
            yield f"  {part:<12}{counted(sum(of_class.values()), 'file')}"
    yield f"sample        {look.sample.usable} of {look.sample.images} images are usable"
    groups = defaultdict(list)
    for one in look.sample.set_aside:
        groups[NUMBER.sub("", one.reason)].append(one)
    alike = sorted(groups.values(), key=len, reverse=True)
    for group in alike[:SHOWN]:
        yield f"  set aside   {len(group)}, such as {group[0].path}: {group[0].reason}"
    if more := sum(map(len, alike[SHOWN:])):
        yield f"  set aside   {more} more, for other reasons"
    if look.suggestion is not None:
        options, sample = look.suggestion
        yield f"suggestion    {options}: {sample.usable} of {sample.images} are usable"
    if look.all_bands:
        yield f"bands         {look.all_bands}"
