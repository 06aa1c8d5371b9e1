"""A real subset on disk, to stand where a distilled set would: what `dpd select` does."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dpd_eval.extractors.extractor import build_extractor, check_name
from dpd_eval.selection import check_ipc, find_method, select
from dpd_eval.selection.folder import png, write_folder
from dpd_eval.selection.foreground_patches import foreground_patches
from dpd_eval.selection.training_scores import training_scores
from dpd_runtime.dataset.folder import check_output_folder, remove_set
from dpd_runtime.errors import InputError
from dpd_runtime.files import write_atomically
from dpd_train.foreground.cropping import check_segmenter, describe_segmenter
from dpd_train.images import PLAIN, Reading, fingerprint, read_scenes

DECISIONS_NAME = "decisions.png"
Stage = Callable[[str], Callable[[int, int], None]]
"""title → (done, total) → None"""


@dataclass(frozen=True)
class RealSet:
    """What `select_set` leaves. `extractor` is its description, None where the method needs no features."""

    out: Path
    images: int
    classes: int
    set_hash: str
    extractor: str | None
    rejected: int


def select_set(
    data: Path,
    out: Path,
    *,
    method: str,
    ipc: int | None,
    seed: int | None = None,
    val_per_class: int | None = None,
    extractor: str | None = None,
    segmenter: str | None = None,
    resolution: int | None = None,
    reading: Reading = PLAIN,
    overwrite: bool = False,
    cache: Path | None = None,
    progress: Stage = lambda title: lambda done, total: None,
) -> RealSet:
    """Choose real images from the training part of `data` and write them to `out`. The same call again goes on.

    Args:
        ipc: images a class; None for `full`, which takes all.
        seed: of the methods that draw; None is 0 there.
        val_per_class, resolution, reading: as in `read_scenes`.
        extractor, cache: as in `build_extractor`, for the methods that look at features; None is `own` there.
        segmenter: what foreground finds objects by, as in `find_foreground`.
        overwrite: delete a distilled set which is in the way.

    Raises:
        InputError: an unknown method, extractor or segmenter, an argument that the method lacks or would not heed,
            `out` within `data`.
        DataError: unreadable data, a class with fewer than ipc images.
        OutputFolderError: `out` holds something else, or a set made with other settings.
    """
    chosen = find_method(method)
    if chosen.uses_ipc and ipc is None:
        raise InputError(f"method {method} needs --ipc: give the number of images a class")
    for flag, value, used in (
        ("ipc", ipc, chosen.uses_ipc),
        ("seed", seed, chosen.uses_seed),
        ("extractor", extractor, chosen.sees == "features"),
        ("segmenter", segmenter, chosen.sees == "patches"),
    ):
        if value is not None and not used:
            raise InputError(f"--{flag} {value} has no effect on method {method}: leave it out")
    seed, extractor, count = seed or 0, extractor or "own", 0 if ipc is None else ipc
    if seed < 0:
        raise InputError(f"--seed is {seed}: it must be at least 0")
    check_name(extractor)
    check_segmenter(segmenter)
    if data.resolve() in (out.resolve(), *out.resolve().parents):
        raise InputError(f"--out {out} is inside {data}, where it would be read as images; choose another --out")
    check_output_folder(out)

    scenes = read_scenes(data, part="train", resolution=resolution, val_per_class=val_per_class, reading=reading)
    check_ipc(chosen, scenes.labels, count, scenes.classes)  # before minutes of training
    description = features = None
    patches = None
    if chosen.sees == "patches":
        teacher = build_extractor("own", scenes, cache=cache, progress=progress("training the teacher"))
        patches = foreground_patches(data, scenes, teacher, val_per_class, reading, segmenter, progress)
        scenes, features, description = patches.scenes, patches.sure, teacher.description
    elif chosen.sees == "scores":
        features = training_scores(scenes, cache, progress("scoring the images"))
    elif chosen.sees == "features":
        network = build_extractor(extractor, scenes, cache=cache, progress=progress("training the extractor"))
        description, features = network.description, network.features(scenes.images)
    rows = select(method, scenes, count, seed, features)
    about = {
        "method": method,
        "ipc": ipc,
        "seed": seed if chosen.uses_seed else None,
        "extractor": description,
        "resolution": int(scenes.images.shape[1]),
        "data": fingerprint(scenes),
    }
    if scenes.rendering is not None:
        about["reading"] = scenes.rendering.record()
    if patches is not None:
        about["segmenter"] = describe_segmenter(segmenter)
        about["cut"] = int(np.isin(rows, patches.decisions.cut).sum())
    if overwrite:
        remove_set(out)
    digest = write_folder(scenes, rows, out, about, progress("writing"))
    if patches is not None:
        write_atomically(out / DECISIONS_NAME, png(patches.picture(rows)))
    return RealSet(out, len(rows), len(scenes.classes), digest, description, len(scenes.rejected))
