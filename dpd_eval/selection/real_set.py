"""Write a real subset as a distilled-set folder, so that it can take a distilled set's place: `dpd select`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpd_eval.extractors.choice import build_extractor, check_name
from dpd_eval.selection.folder import write_folder
from dpd_eval.selection.method import Look, Method, Rows, Seen, check_counts, check_ipc
from dpd_eval.selection.methods import find_method, select
from dpd_runtime.dataset.folder import check_output_folder, remove_set
from dpd_runtime.dataset.formats import PNG
from dpd_runtime.errors import InputError
from dpd_runtime.files import check_writable, write_atomically
from dpd_runtime.images.folders import DECISIONS_NAME
from dpd_train.foreground.cropping import Stage, check_segmenter
from dpd_train.held_out import BY_CONTENT, HeldOut
from dpd_train.images import PLAIN, Reading, check_files, fingerprint, read_scenes

if TYPE_CHECKING:
    from dpd_eval.extractors.extractor import Extractor


@dataclass(frozen=True)
class RealSet:
    """What `select_set` wrote. extractor: its description, None if the method needs no features."""

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
    held_out: HeldOut = BY_CONTENT,
    extractor: str | None = None,
    segmenter: str | None = None,
    resolution: int | None = None,
    reading: Reading = PLAIN,
    overwrite: bool = False,
    cache: Path | None = None,
    progress: Stage = lambda title: lambda done, total: None,
) -> RealSet:
    """Choose real images from the training part of `data` and write them to `out`. Run it again to continue.

    Args:
        ipc: images per class; None for `full`, which takes all images.
        seed: for methods that use random numbers; None is 0.
        held_out, resolution, reading: as in `read_scenes`.
        extractor, cache: as in `build_extractor`, for methods that use features; None is `own`.
        segmenter: finds the objects for the method foreground, as in `find_foreground`.
        overwrite: delete a distilled set that is already at `out`.

    Raises:
        InputError: an unknown method, extractor or segmenter, an argument that is missing or has no effect,
            `out` inside `data`, a reading that carries bands.
        DataError: unreadable data, a class with fewer than `ipc` images.
        OutputFolderError: `out` holds something else, or a set made with other settings.
    """
    chosen = find_method(method)
    _check_arguments(chosen, ipc, seed, extractor, segmenter)
    _check_rgb(reading)
    _check_out(out, data)
    seed, count = seed or 0, 0 if ipc is None else ipc
    check_counts(chosen, check_files(data, "train", held_out), count)  # before images are opened
    scenes = read_scenes(data, part="train", resolution=resolution, held_out=held_out, reading=reading)
    check_ipc(chosen, scenes.labels, count, scenes.classes)  # before a training that takes minutes

    def build(name: str) -> "Extractor":
        return build_extractor(name, scenes, cache=cache, progress=progress(f"training the extractor {name}"))

    seen = Seen(scenes)
    if chosen.look is not None:
        seen = chosen.look(Look(data, scenes, held_out, reading, segmenter, lambda: build("own"), cache, progress))
    elif chosen.sees == "features":
        network = build(extractor or "own")
        seen = Seen(scenes, network.features(scenes.images), network.description)
    rows = select(method, seen.scenes, count, seed, seen.features)
    about: dict[str, Any] = {"method": method, "ipc": ipc, "seed": seed if chosen.uses_seed else None}
    about |= {"val_per_class": held_out.val_per_class, "split": held_out.split, "groups": held_out.groups}
    about |= _describe(seen, rows)
    if overwrite:
        remove_set(out)
    digest = write_folder(seen.scenes, rows, out, about, progress("writing"))
    if seen.picture is not None:
        write_atomically(out / DECISIONS_NAME, PNG.encode(seen.picture(rows)))
    return RealSet(out, len(rows), len(scenes.classes), digest, seen.network, len(scenes.rejected))


def _check_rgb(reading: Reading) -> None:
    if reading.carries:
        raise InputError(
            "--bands: dpd select writes RGB, and these are not three bands; give three, such as --bands 4,3,2, or "
            "compare a set with real images of all bands by dpd evaluate --baselines"
        )


def _check_out(out: Path, data: Path) -> None:
    if data.resolve() in (out.resolve(), *out.resolve().parents):
        raise InputError(f"--out {out} is inside {data}, where it would be read as images; choose another --out")
    check_output_folder(out)
    check_writable(out)


def _check_arguments(
    method: Method, ipc: int | None, seed: int | None, extractor: str | None, segmenter: str | None
) -> None:
    if method.uses_ipc and ipc is None:
        raise InputError(f"method {method.name} needs --ipc: give the number of images per class")
    for flag, value, used in (
        ("ipc", ipc, method.uses_ipc),
        ("seed", seed, method.uses_seed),
        ("extractor", extractor, method.sees == "features"),
        ("segmenter", segmenter, method.uses_segmenter),
    ):
        if value is not None and not used:
            raise InputError(f"--{flag} {value} has no effect on method {method.name}: leave it out")
    if seed is not None and seed < 0:
        raise InputError(f"--seed is {seed}: it must be at least 0")
    if extractor is not None:
        check_name(extractor)
    check_segmenter(segmenter)


def _describe(seen: Seen, rows: Rows) -> dict[str, Any]:
    scenes = seen.scenes
    about: dict[str, Any] = {
        "extractor": seen.network,
        "resolution": int(scenes.images.shape[1]),
        "data": fingerprint(scenes),
    }
    if scenes.rendering is not None:
        about["reading"] = scenes.rendering.record()
    return about | ({} if seen.about is None else seen.about(rows))
