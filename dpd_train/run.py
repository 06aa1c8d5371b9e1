"""Whether a run of `dpd train` can begin or continue, without PyTorch, and what it remembers between sessions."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dpd_runtime.bands import Band
from dpd_runtime.classes import check_class_name
from dpd_runtime.errors import BundleError, DataError, InputError
from dpd_runtime.files import (
    PARTIAL,
    cache_folder,
    check_cache,
    check_writable,
    equal_names,
    expanded,
    read_object,
    write_atomically,
)
from dpd_runtime.remarks import SceneSides, network_remarks, other_side, recorded_sides, size_remarks
from dpd_runtime.text import called, differing, shown
from dpd_train.base_files import base_folder, base_sides, check_base
from dpd_train.captioners import check_captioner_source
from dpd_train.config import AUTO, HUB, OWN, WATCHER_STEPS, TrainConfig, extra_watchers, renamed
from dpd_train.doors import open_named
from dpd_train.encoders import open_encoder
from dpd_train.model_files import find_model, licence_of, model_hash, networks_folder, public_name
from dpd_train.rasters import require_rasterio
from dpd_train.records import RunRecord, convert
from dpd_train.samples import samples_of
from dpd_train.scene_set import Part
from dpd_train.scenes import Scenes, opened

log = logging.getLogger(__name__)
PARTS: tuple[Part, Part] = ("train", "val")
STORED = "checkpoints/config.json"
PLACES = ("source", "cache")
LEAST_MATCHED = 20  # images of a class, whose statistics matched codes take on


def check_run_folder(out: Path, resume: bool) -> None:
    """Check that `out` is free, or holds an unfinished run that is to be resumed.

    Raises:
        InputError: `out` holds a finished run, an unfinished one without `resume`, or something else.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"{out} is a file; choose another --out")
    if (out / "run.json").exists():
        raise InputError(f"{out} holds a finished run; choose another --out")
    # as a full disk may leave, or a kill
    if all(path.is_dir() or path.name.endswith(PARTIAL) for path in out.rglob("*")):
        return
    if _stored(out) is None:
        raise InputError(f"{out} is not empty and holds no unfinished run; choose another --out")
    if not resume:
        raise InputError(
            f"{out} holds an unfinished run; continue it with: {resume_command(out)}, or choose another --out"
        )


def resume_command(out: Path) -> str:
    """The command that continues the run in `out`, with its own options and data."""
    return shown(["dpd", "train", "--resume", "--out", out])


@dataclass(frozen=True)
class Unfinished:
    """What an unfinished run was begun with.

    Args:
        data, cache: as given to the first session; None if it was an older version, or for the user's cache.
    """

    config: TrainConfig
    data: Path | None
    cache: Path | None


def read_unfinished(out: Path, asked: Mapping[str, Any]) -> Unfinished | None:
    """Read what the unfinished run in `out` was begun with; None if there is no such run.

    Args:
        asked: options that were given now, by field of TrainConfig. They must be those of the run.

    Raises:
        InputError: another value of an option, or a run of another version.
    """
    content = _stored(out)
    if content is None:
        return None
    try:
        before = TrainConfig(**content["config"])
    except (TypeError, InputError) as error:
        raise InputError(f"{out}: was begun by another version of dpd ({error}); choose another --out") from error
    for name, value in asked.items():
        if (placed_watchers(value) if name == "watchers" else value) != getattr(before, name):
            raise InputError(
                f"{called(TrainConfig, name)} {value}: the unfinished run in {out} has {getattr(before, name)}; leave "
                "the option out to continue it, or choose another --out"
            )
    data, cache = (content.get(name) for name in PLACES)
    return Unfinished(before, Path(data) if data else None, Path(cache) if cache else None)


def _stored(out: Path) -> dict[str, Any] | None:
    """The content of an unfinished run's config.json; None if there is none."""
    try:
        content = json.loads((out / STORED).read_text(encoding="utf-8"))
        return content | {"config": renamed(content["config"])} if {"config", "data"} <= set(content) else None
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def recorded(config: TrainConfig) -> dict[str, Any]:
    """The config as a run records it, with absolute paths of encoders, as a run may go on from another folder.

    What came later is left out at its default, so that older records compare equal.
    """
    later = {"watcher_steps": WATCHER_STEPS, "allow_outside": False, "samples": None}
    values = asdict(config) | {"watchers": placed_watchers(config.watchers)}
    return {name: value for name, value in values.items() if name not in later or value != later[name]}


def placed_watchers(watchers: str) -> str:
    """The value of `--watchers` with absolute paths."""
    if watchers == AUTO:
        return AUTO
    return ",".join([OWN, *map(_absolute, extra_watchers(watchers))])


def names_folders(watchers: object) -> bool:
    """Whether a record's `--watchers` names folders of the machine that wrote it, of which it has the last names."""
    return bool(_folders(watchers))


def found_by_name(watchers: object, recorded: object) -> bool:
    """Whether the folders that a record's `--watchers` names are networks in this machine's folder of networks.

    Args:
        recorded: the record's list of watchers, with the hashes that they must have.
    """
    entries = [entry for entry in recorded if isinstance(entry, dict)] if isinstance(recorded, list) else []
    hashes, here = {entry.get("name"): entry.get("weights_sha256") for entry in entries}, networks_folder()

    def found(name: str) -> bool:
        source = name.removeprefix(HUB)
        if source == name or here is None or source not in (path.name for path in here.glob("*/")):
            return False
        return model_hash(here / source) == hashes.get(name)

    return all(found(name) for name in _folders(watchers))


def _folders(watchers: object) -> list[str]:
    names = str(watchers).split(",")
    return [name for name in names if name not in (AUTO, OWN) and not (name.startswith(HUB) and "/" in name)]


def _absolute(watcher: str) -> str:
    """The name of a further watcher with an absolute path; a hub id stays."""
    family, colon, place = watcher.partition(":")
    there = family + colon != HUB or expanded(place).is_dir()
    return family + colon + str(expanded(place).resolve()) if there else watcher


def further_watchers(config: TrainConfig) -> list[dict[str, str]]:
    """Name, hash and, if it is known, licence of each further watcher.

    Raises:
        InputError: as `open_encoder` and `find_model`.
    """
    return [_hashed(name) for name in extra_watchers(config.watchers)]


def stored_watchers(out: Path) -> list[dict[str, str]]:
    """Name and hash of each further watcher as the run began with it: the folder may be another one by now."""
    return list((_stored(out) or {}).get("encoders", []))


def _hashed(watcher: str) -> dict[str, str]:
    if watcher.startswith(HUB):
        source = watcher.removeprefix(HUB)
        folder, _ = find_model(source)
        licence = licence_of(folder)
        known = {} if licence is None else {"licence": licence}
        return {"name": public_name(source), "weights_sha256": model_hash(folder), **known}
    encoder = open_encoder(watcher)
    return {"name": encoder.name, "weights_sha256": encoder.sha256}


def match_config(
    out: Path, config: TrainConfig, data: dict[str, Any], source: Path | None = None, cache: Path | None = None
) -> None:
    """Check that a resumed run has the config and data of the first session, which stores them in the run.

    Args:
        data: fingerprint of the training images. source: where they are. cache: folder of latents that was given.

    Raises:
        InputError: another config or other data.
    """
    data = {name: value for name, value in data.items() if name != "data_card"}  # what it says is in the config
    content = json.loads(
        json.dumps({"config": recorded(config), "data": data, "encoders": further_watchers(config)}, allow_nan=False)
    )
    before = _stored(out)
    if before is None:
        places = [None if place is None else str(place.absolute()) for place in (source, cache)]
        content |= dict(zip(PLACES, places, strict=True))
        (out / STORED).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out / STORED, json.dumps(content, allow_nan=False).encode())
        return
    now, then = (_without_licences(found.get("encoders", [])) for found in (content, before))
    if now != then or any(before.get(name) != content[name] for name in ("config", "data")):
        changed = [called(TrainConfig, k) for k, v in content["config"].items() if before["config"].get(k) != v]
        changed += ["watcher in --watchers"] if now != then else []
        had = differing(changed) or "other data"
        raise InputError(f"--resume: the unfinished run had {had}; use the same, or another --out")


def _without_licences(watchers: list[dict[str, str]]) -> list[dict[str, str]]:
    """What of watchers decides a run: a card may have changed, and older runs have stored no licence."""
    return [{name: value for name, value in one.items() if name != "licence"} for one in watchers]


def check_inputs(
    data: Path | Scenes, out: Path, config: TrainConfig, *, resume: bool = False, cache: Path | None = None
) -> Scenes:
    """Check all that needs no network and no pixel, in less than a second.

    Args:
        data: what `train` takes.
        cache: folder of latents that was given; None for the user's.

    Returns:
        the scenes, opened.

    Raises:
        DataError, InputError: as `dpd_train.train.train`.
        DiskError: the run or the cache cannot be written.
    """
    check_run_folder(out, resume)
    check_writable(out)
    if cache is not None:
        check_cache(cache, "choose another --cache-dir")
    else:
        check_cache(cache_folder("latents"))
    check_captioner_source(config.captioner)
    if config.grad_compression is not None:
        open_named("dpd.gradients", config.grad_compression, "--grad-compression")
    samples = samples_of(config.samples)
    side = check_base_at(config.base, config.resolution)
    weights = (base_folder(config.base) / "unet").glob("*.safetensors")
    check_writable(out, room=min((path.stat().st_size for path in weights), default=0))
    _check_watchers(extra_watchers(placed_watchers(config.watchers)), side)
    reading = config.reading
    if not reading.plain:
        require_rasterio()
    scenes = opened(data, config)
    counts, _ = (scenes.counts(part) for part in PARTS)
    if "test" in scenes.parts:
        scenes.files("test")  # refuses other classes
    check_classes(scenes.root, tuple(counts))
    if scenes.carries and any(sample.cuts for sample in samples):
        raise InputError(
            f"--samples {config.samples} looks at red, green and blue, and these scenes carry other bands: leave it "
            "out, or give three --bands"
        )
    if config.prototypes == "matched" or scenes.carries:  # samples make no images
        check_matched_counts(counts, scenes.carries)
    return scenes


def check_base_at(base: str, resolution: int | None) -> int | None:
    """Check that the base is there, and the side in pixels that is asked for, before weights are read.

    Returns:
        the side that a run works at; None if nothing is asked for and the base's configs do not say.

    Raises:
        InputError: as `base_folder` and `check_base`, or a side that the base's networks cannot take.
    """
    folder = base_folder(base)
    check_base(base, folder)
    if resolution is not None and resolution < 1:
        raise InputError(f"--resolution is {resolution}: it must be at least 1")
    sides = base_sides(base, folder)
    return working_side(base, *sides, resolution) if sides else resolution


def _check_watchers(names: Sequence[str], side: int | None) -> None:
    """Check that further watchers are there, and encoders for images of this size; None where it is not known yet."""
    published = [public_name(name.removeprefix(HUB)) for name in names if name.startswith(HUB)]
    if twice := next((name for name in published if published.count(name) > 1), None):
        raise InputError(f"--watchers: two networks are called {twice}, and a set names them so; rename a folder")
    for name in names:
        if name.startswith(HUB):
            try:
                find_model(name.removeprefix(HUB))
            except InputError as error:
                raise InputError(f"--watchers {HUB}{error}") from None
            continue
        own = open_encoder(name).side
        if side not in (None, own):
            raise InputError(
                f"--watchers {name}: it was trained at {own} px and this run works at {side} px; train it again at "
                f"{side} px, or leave it out"
            )


def check_matched_counts(counts: Mapping[str, int], carried: bool = False) -> None:
    """Check that codes can be matched to every class.

    Args:
        counts: class → number of training images. carried: whether they have other bands than RGB, which are distilled
            as matched codes only.

    Raises:
        DataError: a class has fewer images than LEAST_MATCHED.
    """
    for name, images in counts.items():
        if images < LEAST_MATCHED:
            raise DataError(
                f"class {name!r} has {images} different training images, and "
                f"{'other bands than RGB need' if carried else '--prototypes matched needs'} at least "
                f"{LEAST_MATCHED} in each; add images, or {'give three --bands' if carried else 'use pooled'}"
            )


def matched_count(ipc: int, smallest: int) -> int:
    """Codes of each class: at most `ipc`, and at most half as many as the smallest class has images."""
    return min(ipc, smallest // 2)


def check_classes(data: Path, names: Sequence[str]) -> None:
    """Check that a bundle can have classes with these names.

    Raises:
        DataError: it cannot.
    """
    for name in names:
        try:
            check_class_name(name)
        except BundleError as error:
            raise DataError(f"{data}: class folder {name!r} cannot be a class of a bundle; rename it") from error
    equal = equal_names(names)
    if equal is not None:
        raise DataError(f"{data}: classes {equal[0]!r} and {equal[1]!r} are one folder on some systems; rename one")


def working_side(name: str, native: int, multiple: int, wanted: int | None) -> int:
    """Side in pixels that a run works at: `wanted`, or else the base's own.

    Args:
        name: of the base, for messages. native: side that it makes. multiple: of sides that its networks take.
        wanted: `--resolution`.

    Raises:
        InputError: a side that the base's networks cannot take.
    """
    if wanted is None:
        return native
    if wanted % multiple:
        raise InputError(f"--resolution {wanted}: base {name!r} takes multiples of {multiple} px")
    return wanted


def fate_of_scenes(sides: SceneSides | None, base: str, resolution: int | None, side: int | None = None) -> list[str]:
    """What a run with this base makes of the size of its scenes, what that costs and what else could be had.

    Args:
        sides: of the scenes; None where no header tells them. resolution: `--resolution`.
        side: that the base works at; None for what its configs say.

    Raises:
        InputError: there is no such base, or `resolution` does not suit it.
    """
    own = base_sides(base, base_folder(base))
    if side is None:
        side = working_side(base, *own, resolution) if own else resolution
    if sides is None or side is None:
        return []
    if resolution is not None:
        return size_remarks(sides, side, ", as --resolution says")
    return size_remarks(sides, side, f", the size of base {base}") + (other_side(sides, side, own[1]) if own else [])


# -- A finished run: its record and class table, read without PyTorch.


@dataclass(frozen=True)
class Run:
    """A run directory that `dpd train` completed.

    Args:
        record: the content of run.json.
        table: the content of classes.json.
    """

    path: Path
    record: RunRecord
    table: dict[str, Any]

    @property
    def bands(self) -> tuple[Band, ...]:
        """What the channels of the images are; empty for RGB."""
        return tuple(Band(**band) for band in self.record.get("rendering", {}).get("carried", ()))


def told_of_size(record: Mapping[str, Any]) -> list[str]:
    """What became of the size of a run's scenes, from its run.json; nothing where that does not say.

    Where there is a crop, patches of the run's side were cut out of larger scenes.
    """
    sides = recorded_sides(record["data"].get("scene_sides"))
    return [] if sides is None or record.get("crop") else size_remarks(sides, record["config"]["resolution"])


def told_of_networks(record: Mapping[str, Any]) -> list[str]:
    """A line if a run's networks were trained on few images of a class, from its run.json."""
    counts = record.get("scenes") or record["data"]["classes"]
    return network_remarks(counts, matched=record["config"].get("prototypes") == "matched")


def open_run(path: Path) -> Run:
    """Read run.json and classes.json, and load no network.

    Raises:
        InputError: `path` holds no finished run, or one without classifiers.
    """
    if not (path / "run.json").is_file():
        unfinished = (path / "checkpoints").is_dir()
        hint = f"finish it: {resume_command(path)}" if unfinished else "give a folder that dpd train left"
        raise InputError(f"{path}: no run.json in it; {hint}")
    run, classes = path / "run.json", path / "classes.json"
    content, table = (read_object(place, f"{place}:", "give a folder that dpd train left") for place in (run, classes))
    record = convert(content, RunRecord, str(run))
    if "federated" in record and not (path / "classifier").is_dir():
        raise InputError(
            f"{path}: a federated server's run without images has no classifiers; on a machine with images, make a "
            f"complete run with dpd train DATA --base {path / 'pipeline'} --steps 0 --out RUN"
        )
    return Run(path, record, table)
