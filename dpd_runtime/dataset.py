"""A distilled set on disk."""

import errno
import hashlib
import json
import re
import shutil
import struct
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from dpd_runtime.annotations import Float32, Pixels, Progress
from dpd_runtime.bands import Band, picture
from dpd_runtime.budget import check_budget, label_bytes
from dpd_runtime.bundle import Bundle
from dpd_runtime.engines import FLAVOURS, RTX_PACKAGE, Provider
from dpd_runtime.errors import DiskError, DpdError, InputError, OutputFolderError
from dpd_runtime.files import (
    FULL,
    MAX_JSON_BYTES,
    check_above,
    check_no_links,
    check_plain,
    disk_fault,
    dumps,
    final_name,
    is_foreign,
    is_safe_name,
    loads,
    open_regular,
    parse_json,
    write_atomically,
)
from dpd_runtime.formats import (
    FORMATS,
    PNG,
    UNFINISHED_NAME,
    Contents,
    Output,
    Sample,
    file_suffix,
    folder_name,
    waiting_encoding,
)
from dpd_runtime.generation import Generation, writing_behind
from dpd_runtime.html import html_table
from dpd_runtime.image_folders import OF_SETS, SHEET_NAME
from dpd_runtime.images import read_pixels
from dpd_runtime.machine import gpu_name, nvidia_driver
from dpd_runtime.networks import SOFT_LABELS_NAME, Block, Image, load_teacher, pack_labels
from dpd_runtime.sampler import BLOCK
from dpd_runtime.sessions import gpu_of_openvino
from dpd_runtime.set_card import (
    CARD_NAME,
    CLASSES_NAME,
    CROISSANT_NAME,
    class_list,
    config_of,
    croissant,
    dataset_card,
)
from dpd_runtime.set_record import SetRecord
from dpd_runtime.set_state import (
    DATASET_NAME,
    LOCK_FILE,
    METADATA_NAME,
    SHARD_STATE,
    STATE_NAME,
    WHOLE,
    Shard,
    State,
    Worker,
    other_settings,
)
from dpd_runtime.versions import cpu_flags, processor, versions

# -- The output folder: which files belong to a set, whether the set is finished, and what `--overwrite` deletes.


NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
OWN_NAMES = (
    *(DATASET_NAME, METADATA_NAME, STATE_NAME, SOFT_LABELS_NAME),
    *(CARD_NAME, CLASSES_NAME, CROISSANT_NAME),
    *sorted(OF_SETS),
)


@contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """Turn an OSError of writing to `out` into a DiskError that says what to do."""
    try:
        yield
    except Exception as error:
        fault = disk_fault(error) or (error if isinstance(error, OSError) and not isinstance(error, DpdError) else None)
        if fault is None:
            raise
        raise _disk_error(fault, out) from error


def _disk_error(error: OSError, out: Path) -> DiskError:
    reason = error.strerror or str(error)
    if error.errno in NOT_WRITABLE:
        folder = next((folder for folder in (out, *out.parents) if folder.exists()), out)
        return DiskError(
            f"{folder}: this folder cannot be written ({reason}); choose another --out, or make the folder writable "
            "and run the same command again"
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason = FULL
    return DiskError(f"{out}: {reason}; finished images are kept; run the same command again to continue")


def check_output_folder(out: Path) -> None:
    """Check that a folder is missing, empty, or a distilled set of ours.

    Raises:
        InputError: what should be a folder above `out` is a file.
        OutputFolderError: it is not.
        OutputLinkError: there is a link or a special file in it.
    """
    check_above(out)
    if out.exists() and not out.is_dir():
        raise OutputFolderError(out, "is a file, not a folder")
    if not out.is_dir():
        return
    for status, planted in ((out.stat(), any(out.iterdir())), (out.lstat(), out.is_symlink())):
        if planted and is_foreign(status):
            uid = status.st_uid
            raise OutputFolderError(out, f"belongs to another user (uid {uid}), who may have put images there")
    other = not _is_ours(out) and any(not _is_early(path.name) for path in out.iterdir())
    if other and not _is_ours(out):  # checked again: a shard may have started in between
        raise OutputFolderError(out, "is not empty and is not a distilled set")
    check_no_links(out)


def _is_early(name: str) -> bool:
    """Whether a process that is killed early can leave this file."""
    return LOCK_FILE.fullmatch(name) is not None or (name != STATE_NAME and final_name(name) == STATE_NAME)


def _headers(out: Path) -> list[dict[str, Any]]:
    """The headers of the state file and of dataset.json. Errors of any type mean files that are not ours."""
    headers = []
    for name in (STATE_NAME, DATASET_NAME):
        check_plain(out / name)
    if (out / STATE_NAME).exists():
        headers.append(loads((out / STATE_NAME).read_text(encoding="utf-8").split("\n", 1)[0]))
    if (out / DATASET_NAME).exists():
        headers.append(loads((out / DATASET_NAME).read_text(encoding="utf-8"))["made_with"])
    for header in headers:
        if not {"bundle", "seed", "sampler", "classes"} <= set(header):
            raise KeyError("header")
    return headers


def _is_ours(out: Path) -> bool:
    """Whether the folder is a set of ours. Only our header shows it: other tools use the same file names."""
    try:
        return bool(_headers(out))
    except FileNotFoundError:
        return _is_ours(out)  # a shard has just finished the set
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def _is_part(path: Path, out: Path, header: dict[str, Any]) -> bool:
    """Whether a set with this header, finished or not, can have this file or folder."""
    where = final_name(path.relative_to(out).as_posix())
    kind = FORMATS.get(header.get("format", Output.format))
    if where in OWN_NAMES or LOCK_FILE.fullmatch(where) or SHARD_STATE.fullmatch(where):
        return True
    if kind is not None and kind.files.fullmatch(where):
        return True
    if where == UNFINISHED_NAME:
        return path.is_dir()
    waiting = where.startswith(UNFINISHED_NAME + "/")
    folder, _, name = where.removeprefix(UNFINISHED_NAME + "/").rpartition("/")
    classes = {str(known) for known in header.get("classes", [])} - {"", ".", ".."}
    if not waiting and kind is not FORMATS[Output.format]:
        return False
    if not folder:
        return name in classes and path.is_dir()
    final = file_suffix(header.get("image_format", PNG.name))
    suffix = waiting_encoding(bool(header.get("bands"))).suffix if waiting else final
    return folder in classes and re.fullmatch(rf"{re.escape(folder)}_\d{{5,}}{re.escape(suffix)}", name) is not None


def remove_set(out: Path) -> None:
    """Delete a distilled set of ours, finished or not.

    Raises:
        OutputFolderError: `out` is not a distilled set, or holds other files, or is being written. Nothing is deleted
            then.
        DiskError: the folder cannot be written.
    """
    with disk_errors(out):
        check_output_folder(out)
        if not out.is_dir():
            return
        with Worker(out, WHOLE):
            _remove_set(out)


def _remove_set(out: Path) -> None:
    headers = _headers(out)
    ours: list[Path] = []
    foreign: list[Path] = []
    for path in sorted(out.rglob("*"), reverse=True):  # files before their folders
        known = not path.is_symlink() and any(_is_part(path, out, header) for header in headers)
        (ours if known else foreign).append(path)
    if foreign and headers:
        raise OutputFolderError(out, f"holds {foreign[0].relative_to(out)}, which is not part of a distilled set")
    for path in sorted(ours, key=lambda path: path in (out / STATE_NAME, out / DATASET_NAME)):
        if LOCK_FILE.fullmatch(path.name):
            continue  # removed when the process ends
        if path.is_dir():  # the files that mark it as ours go last, so that an interrupted removal can be repeated
            path.rmdir()
        else:
            path.unlink()


def remove_partials(out: Path, header: dict[str, Any]) -> None:
    """Remove the partial files of killed processes. No other process may be at work."""
    for path in list(out.rglob("*")):
        if final_name(path.name) != path.name and _is_part(path, out, header):
            path.unlink()


def begin_again(out: Path, output: Output) -> None:
    """Mark the set as unfinished: delete the files that were made from all images."""
    for name in (DATASET_NAME, METADATA_NAME, SOFT_LABELS_NAME, CARD_NAME, CROISSANT_NAME):
        (out / name).unlink(missing_ok=True)
    for path in out.iterdir():
        if output.kind.files.fullmatch(final_name(path.name)):
            path.unlink()


def file_hash(path: Path) -> str | None:
    """sha256 of a file, or None if there is no file."""
    try:
        with open_regular(path) as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


def _are_whole(out: Path, hashes: dict[str, str]) -> bool:
    """Whether all files are there as recorded. A record from elsewhere may name files outside, which are not opened."""
    inside = all(is_safe_name(part) for name in hashes for part in name.split("/"))
    return inside and all(file_hash(out / name) == digest for name, digest in hashes.items())


def finished_set(out: Path, header: dict[str, Any], ipc: int, output: Output) -> dict[str, Any] | None:
    """dataset.json of a complete and unchanged packed set; else None.

    Raises:
        OutputFolderError: it was made with other settings, or the request would need its pixels, which are not kept.
    """
    if (out / STATE_NAME).exists() or not (out / DATASET_NAME).exists():
        return None
    dataset: dict[str, Any] = loads((out / DATASET_NAME).read_text(encoding="utf-8"))
    if dataset["made_with"] != header:
        raise other_settings(out, dataset["made_with"], header)
    for value, wanted, what in (
        (dataset.get("ipc"), ipc, f"{dataset.get('ipc')} images per class"),
        (dataset.get("soft_labels"), output.soft_labels, f"{'' if dataset.get('soft_labels') else 'no '}soft labels"),
    ):
        if value != wanted:
            reason = (
                f"holds a complete {output.form} set with {what}, which cannot change because its pixels are not kept"
            )
            raise OutputFolderError(out, reason, removable=True)
    files = dict(dataset.get("files", {}))
    if METADATA_NAME not in files or not _are_whole(out, files):
        return None
    records = map(loads, (out / METADATA_NAME).read_text(encoding="utf-8").splitlines())
    images = {r["file_name"]: r["file_sha256"] for r in records if "file_sha256" in r}
    if not _are_whole(out, images):
        return None
    remove_unfinished(out)  # left behind if the process was killed at the very end
    return dataset


def packed_format(folder: Path) -> str | None:
    """The format of a packed distilled set; None for any other folder."""
    try:
        with open_regular(folder / DATASET_NAME) as file:
            name = parse_json(file.read(MAX_JSON_BYTES + 1), DATASET_NAME).get("format", Output.format)
    except (OSError, ValueError, AttributeError):
        return None
    return None if name == Output.format else str(name)


def remove_unfinished(out: Path) -> None:
    """Remove the folder of the images that were waiting to be packed."""
    if (out / UNFINISHED_NAME).exists():
        shutil.rmtree(out / UNFINISHED_NAME)


# -- The last step of writing a set: pack all images, and write metadata, soft labels and contact sheet.


Label = Callable[[Pixels], Float32]


@dataclass(frozen=True)
class Completed:
    """The result of `complete`. files: sha256 by name of the files of a packed set; empty for an image folder."""

    set_hash: str
    images: int
    files: dict[str, str]


def complete(generation: Generation, out: Path, output: Output, state: State, label: Label | None) -> Completed:
    """Read all images back from the disk, pack them, and write metadata, soft labels and contact sheet.

    Only metadata and soft labels are held in memory for all images.

    Raises:
        OSError: an image cannot be read back.
    """
    classes = tuple(scene.name for scene in generation.bundle.classes)
    height, width, _ = generation.bundle.manifest.image_shape
    contents = Contents(len(generation), classes, (height, width), output.encoding, label is not None, output.bands)
    gathered = _Gathered(output.bands)
    samples = gathered.watch(_samples(generation, out, output, state, label))
    if output.direct:
        packed: list[str] = []
        for _ in samples:
            pass
    else:
        packed = output.kind.pack(samples, out, contents)
    written = [*packed, METADATA_NAME, SHEET_NAME]
    if not output.direct and not packed:
        for record in gathered.records:
            record["file_sha256"] = file_hash(out / record["file_name"])
    write_atomically(
        out / METADATA_NAME, "".join(json.dumps(r, allow_nan=False) + "\n" for r in gathered.records).encode()
    )
    write_atomically(out / SHEET_NAME, PNG.encode(contact_sheet(list(gathered.rows.items()))))
    if label is not None:
        write_atomically(out / SOFT_LABELS_NAME, pack_labels(gathered.soft_labels, classes))
        written.append(SOFT_LABELS_NAME)
    files = {} if output.direct else {name: file_hash(out / name) or "" for name in written}
    return Completed(gathered.digest.hexdigest(), len(gathered.records), files)


class _Gathered:
    """Collects hash, metadata, soft labels and the rows of the contact sheet while the samples are packed.

    Args:
        rows: the tiles of each class that the sheet shows: ten thousand classes of large images would fill the memory.
    """

    def __init__(self, bands: tuple[Band, ...]) -> None:
        self.bands = bands
        self.digest = SetDigest()
        self.records: list[dict[str, Any]] = []
        self.rows: dict[str, list[Pixels]] = {}
        self.soft_labels: list[Float32] = []

    def watch(self, samples: Iterator[Sample]) -> Iterator[Sample]:
        for sample in samples:
            name, index = sample.record["class"], sample.record["index"]
            self.digest.update(name, index, sample.pixels)
            self.records.append(sample.record)
            if len(self.rows) < MOST_ROWS or name in self.rows:
                row = self.rows.setdefault(name, [])
                if index < BLOCK:
                    row.append(tile(picture(sample.pixels, self.bands)))
            if sample.soft_label is not None:
                self.soft_labels.append(sample.soft_label)
            yield sample


def _samples(generation: Generation, out: Path, output: Output, state: State, label: Label | None) -> Iterator[Sample]:
    """All images in the order of the set hash."""
    for scene in sorted(generation.classes, key=lambda scene: scene.name.encode()):
        for index in range(generation.ipc):
            name = folder_name(scene.name, scene.label, index, output.block_encoding.suffix)
            pixels = read_pixels(output.block_folder(out) / name)
            if pixels is None:
                raise OSError(errno.EIO, f"{name} cannot be read back")
            final = output.kind.image_name(scene.name, scene.label, index, output.encoding.suffix)
            record = {**state.records[name], "file_name": final}
            yield Sample(record, pixels, None if label is None else label(pixels))


# -- Writing a distilled set. It can be interrupted at any time and continued (docs/guides/generate.md).


PLAIN = Output()


@dataclass(frozen=True)
class DistilledSet:
    """The result of `write_set`.

    Args:
        images: of the whole set; of this shard while others are unfinished.
        computed: images that this call has computed.
        set_hash: None while other shards are unfinished.
        left: unfinished images of the set. If 0 without a hash, another shard is about to finish the set.
    """

    out: Path
    images: int
    classes: int
    computed: int
    set_hash: str | None
    left: int = 0

    def _repr_html_(self) -> str:
        """What it holds, and its contact sheet if it is complete, for notebooks."""
        facts = [("images", self.images), ("classes", self.classes), ("set hash", self.set_hash or "unfinished")]
        sheet = self.out / SHEET_NAME
        picture = b64encode(sheet.read_bytes()).decode() if self.set_hash is not None and sheet.is_file() else ""
        shown = f'<img alt="contact sheet" src="data:image/png;base64,{picture}">' if picture else ""
        return html_table(str(self.out), ("", ""), facts) + shown


def write_set(
    generation: Generation,
    out: str | Path,
    progress: Progress = lambda done, total: None,
    output: Output = PLAIN,
    shard: Shard = WHOLE,
    *,
    overwrite: bool = False,
) -> DistilledSet:
    """Write the missing images of `generation` to `out`, then the metadata. A second call does only what is left.

    Args:
        shard: this process's part of the set, if several processes share `out`. The last one finishes the set.
        overwrite: delete a set that is at `out`, once nothing else stands in the way of the new one.

    Raises:
        OutputFolderError: `out` holds something else, or a set with other settings, or is being written.
        OutputLinkError: a link or a special file below `out`.
        MissingExtraError: a package that `output` needs is not installed.
        BundleError: its images or soft labels would take too much memory.
        InputError: soft labels without a teacher, or this Pillow lacks the encoder.
        DiskError: the folder cannot be written, or the disk is full or gone. Finished images are kept.
    """
    out, output = Path(out), output.of(generation.bundle.manifest.bands)
    output.check()
    check_beside(generation.bundle.path, out)
    with disk_errors(out):
        check_output_folder(out)
    generation.load()  # errors appear before anything is written
    label = None
    if output.soft_labels:
        bundle = generation.bundle
        check_budget(bundle, generation.sampler, label_bytes(bundle, len(generation)))
        label = load_teacher(generation.bundle, generation.provider, generation.threads)
    if overwrite:
        remove_set(out)
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        with Worker(out, shard) as worker:
            return _Writing(generation, out, output, shard).run(worker, progress, label)


class _Writing:
    """Writes one process's part of a set."""

    def __init__(self, generation: Generation, out: Path, output: Output, shard: Shard) -> None:
        self.generation, self.out, self.output, self.shard = generation, out, output, shard
        self.header = header_of(generation, output)
        self.folder, self.encoding = output.block_folder(out), output.block_encoding
        self.blocks = shard.of(generation.blocks())

    def run(self, worker: Worker, progress: Progress, label: Label | None) -> DistilledSet:
        generation, out, output = self.generation, self.out, self.output
        with worker.turn():
            check_no_links(out)  # again: loading takes a while
            alone = worker.alone()
            finished = None if output.direct else finished_set(out, self.header, generation.ipc, output)
            if finished is not None:
                progress(len(generation), len(generation))
                self.write_texts(finished["set_hash"])
                return DistilledSet(out, len(generation), len(generation.classes), 0, finished["set_hash"])
            state = State(out, self.header, generation.ipc, self.shard, alone=alone)
            if alone:
                remove_partials(out, self.header)
            begin_again(out, output)
        computed = self.write_blocks(state, progress)
        if self.shard == WHOLE:
            return self.end(state, computed, label)
        with worker.turn():
            state.read_shards()
            left = sum(len(names) for names in map(self.names, generation.blocks()) if not self.done(state, names))
            if not left and worker.alone():
                return self.end(state, computed, label)
            worker.leave()
        images = sum(map(len, map(self.names, self.blocks)))
        return DistilledSet(out, images, len(generation.classes), computed, None, left)

    def names(self, block: Block) -> dict[int, str]:
        """The file name of each requested image of a block, by index."""
        scene, suffix = block.scene_class, self.encoding.suffix
        indices = (i for i in block.indices if i < self.generation.ipc)
        return {i: folder_name(scene.name, scene.label, i, suffix) for i in indices}

    def done(self, state: State, names: dict[int, str]) -> bool:
        return all(state.intact(self.folder, name) for name in names.values())

    def write_blocks(self, state: State, progress: Progress) -> int:
        """Compute and write all incomplete blocks. Returns the number of computed images."""
        for scene in self.generation.classes:
            (self.folder / scene.name).mkdir(parents=True, exist_ok=True)
        total, done, computed = sum(map(len, map(self.names, self.blocks))), 0, 0

        def count(images: int) -> None:
            nonlocal done
            done += images
            progress(done, total)

        def missing() -> Iterator[Block]:
            for block in self.blocks:
                names = self.names(block)
                if not self.done(state, names):
                    yield block
                else:
                    count(len(names))

        def write(images: list[Image]) -> None:
            records = []
            for image in images:
                scene = image.class_name
                name = folder_name(scene, image.label, image.index, self.encoding.suffix)
                write_atomically(self.folder / name, self.encoding.encode(image.pixels), below=self.out)
                records.append(record_of(image, name, self.generation.seed))
            state.append(records)

        with writing_behind(write) as put:
            for images in self.generation.stream(missing()):
                put(images)
                count(len(images))
                computed += len(images)
        return computed

    def end(self, state: State, computed: int, label: Label | None) -> DistilledSet:
        """Finish the set. No other process may be at work."""
        out = self.out
        if self.shard != WHOLE:
            state.join_shards()
        remove_partials(out, self.header)
        completed = complete(self.generation, out, self.output, state, label)
        record = describe(self.generation, self.output, completed, self.header)
        self.write_texts(completed.set_hash)
        write_atomically(out / DATASET_NAME, dumps(record.to_dict()))
        (out / STATE_NAME).unlink()
        remove_unfinished(out)
        return DistilledSet(out, completed.images, len(self.generation.classes), computed, completed.set_hash)

    def write_texts(self, set_hash: str) -> None:
        """Write what people read. It is not among the hashed files, so it is written anew each time."""
        write_atomically(self.out / CLASSES_NAME, class_list(self.generation).encode())
        write_atomically(self.out / CARD_NAME, dataset_card(self.generation, self.output, set_hash).encode())
        if self.output.format == "imagefolder" and not self.output.bands:
            described = croissant(self.generation, self.output, set_hash)
            write_atomically(self.out / CROISSANT_NAME, described.encode())


# -- The JSON records of a set: its header, a line of metadata.jsonl, dataset.json.


def header_of(generation: Generation, output: Output) -> dict[str, Any]:
    """The settings that must be equal for two runs to write into one folder, after a round trip through JSON."""
    header: dict[str, Any] = {
        "bundle": generation.bundle.hash,
        "seed": generation.seed,
        "sampler": generation.sampler.to_dict(),
        **_choice(generation.provider),
        "classes": [c.name for c in generation.classes],
        "machine": {"versions": versions(), "cpu_flags": cpu_flags(), **_gpu(generation)},  # on others bits may differ
        **output.header(),
    }
    return dict(json.loads(json.dumps(header, allow_nan=False)))


def record_of(image: Image, name: str, seed: int) -> dict[str, Any]:
    """The image's line of metadata.jsonl. The margin of a decoded image is null."""
    return {
        "file_name": name,
        "label": image.label,
        "class": image.class_name,
        "index": image.index,
        "prototype": image.prototype,
        "prompt": image.prompt,
        "candidate": image.candidate,
        "margin": None if image.margin is None else round(image.margin, 4),
        "seed": seed,
        "pixels_sha256": hashlib.sha256(image.pixels.tobytes()).hexdigest(),
    }


def describe(generation: Generation, output: Output, completed: Completed, made_with: dict[str, Any]) -> SetRecord:
    """The record of a complete set."""
    bundle, provider, sampler = generation.bundle, generation.provider, generation.sampler
    return SetRecord(
        set_hash=completed.set_hash,
        bundle_hash=bundle.hash,
        bundle_name=bundle.manifest.name,
        prototypes_sha256=bundle.manifest.files["prototypes.safetensors"].sha256,
        signature=bundle.signature.describe(),
        audit=bundle.manifest.audit,
        watchers=_watchers(bundle),
        seed=generation.seed,
        sampler=sampler.to_dict(),
        ipc=generation.ipc,
        images=completed.images,
        counts={scene.name: generation.ipc for scene in generation.classes},
        **output.describe(),
        soft_labels=output.soft_labels,
        files=completed.files or None,
        **_where(generation),
        precision=provider.computes_in(bundle.manifest.precision),
        call_rows=generation.call_rows or None,
        threads=generation.threads,
        cpu_flags=tuple(cpu_flags()),
        versions=versions(),
        config=config_of(generation, output),
        made_with=made_with,
        state="complete",
    )


def _watchers(bundle: Bundle) -> tuple[str, ...] | None:
    """The further networks that watched while codes were matched to images; None for other bundles."""
    matched = any(scene.prototype_kind == "matched" for scene in bundle.classes)
    return tuple(bundle.manifest.watchers) if matched and bundle.manifest.privacy is None else None


def _choice(provider: Provider) -> dict[str, Any]:
    """The provider as options name it. Only openvino has more than one kind of device and precision."""
    own = {"precision": provider.precision, "gpu": provider.gpu} if provider.name == "openvino" else {}
    return {"provider": provider.name, **own}


def _gpu(generation: Generation) -> dict[str, Any]:
    """GPU, driver and engines, all of which decide on the last bits; nothing where a CPU or openvino computes."""
    provider = generation.provider
    if provider.on_cpu or provider.name == "openvino":
        return {}
    engines = {}
    if provider.name in FLAVOURS:
        engines = {"engines": generation.bundle.engine_hashes(provider, generation.graphs)}
    return {"gpu": gpu_name(provider.device), "driver": nvidia_driver().version, **engines}


def _where(generation: Generation) -> dict[str, Any]:
    """What computed the images: provider, its package and version, and the processor or GPU."""
    provider, installed = generation.provider, versions()
    of_onnxruntime = "onnxruntime-gpu" if provider.name != "cpu" and "onnxruntime-gpu" in installed else "onnxruntime"
    package = {"openvino": "openvino", "tensorrt-rtx": RTX_PACKAGE}.get(provider.name, of_onnxruntime)
    gpu = gpu_of_openvino if provider.name == "openvino" else gpu_name
    return {
        "provider": provider.name,
        "provider_version": f"{package} {installed.get(package, installed.get('onnxruntime-gpu', 'unknown'))}",
        "device": processor() if provider.on_cpu else gpu(provider.device),
    }


# -- The set hash: it identifies the pixels of a distilled set, independent of the file format.


class SetDigest:
    """sha256 over the pixels of images in the order (class utf-8, index)."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def update(self, name: str, index: int, pixels: Pixels) -> None:
        """Add one image, uint8 [H, W, N]. The number of bands is part of the hash where it is not 3."""
        raw, bands = name.encode(), pixels.shape[2:] if pixels.shape[2] != 3 else ()
        sizes = (index, *pixels.shape[:2], *bands)
        self._digest.update(struct.pack("<I", len(raw)) + raw + struct.pack(f"<{len(sizes)}I", *sizes))
        self._digest.update(np.ascontiguousarray(pixels).tobytes())

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def set_hash(images: Iterable[tuple[str, int, Pixels]]) -> str:
    """The set hash of (class name, index, uint8 [H, W, N]) in any order."""
    digest = SetDigest()
    for entry in sorted(images, key=lambda entry: (entry[0].encode(), entry[1])):
        digest.update(*entry)
    return digest.hexdigest()


# -- The contact sheet of a set: one labelled row for each class.


GAP, SIZE = 2, 64
MOST_ROWS, LONGEST_LABEL = 100, 40


def check_beside(bundle: Path, out: Path) -> None:
    """Check that a set does not go into the folder of its bundle, which would be a changed one then.

    Raises:
        InputError: it does.
    """
    if bundle.is_dir() and out.resolve().is_relative_to(bundle.resolve()):
        raise InputError(f"--out {out}: is inside the bundle {bundle}, which it would change; choose another place")


def tile(pixels: Pixels, size: int = SIZE) -> Pixels:
    """An image as the contact sheet shows it, uint8 [size, size, 3]. A tile itself does not change."""
    return np.asarray(PillowImage.fromarray(pixels).resize((size, size), PillowImage.Resampling.LANCZOS))


def contact_sheet(rows: Sequence[tuple[str, Sequence[Pixels]]], size: int = SIZE) -> Pixels:
    """A picture, uint8 [H, W, 3], with a row for each (class name, images). Each image has `size` × `size` pixels.

    It shows the first MOST_ROWS classes, as a bundle may have ten thousand, and LONGEST_LABEL letters of each name.
    """
    rows = [(name[:LONGEST_LABEL], [tile(pixels, size) for pixels in images]) for name, images in rows[:MOST_ROWS]]
    font = ImageFont.load_default(size=12)
    label_width = 8 + max(int(font.getlength(name)) for name, _ in rows)
    columns = max(len(images) for _, images in rows)
    width, height = label_width + columns * (size + GAP), len(rows) * (size + GAP) + GAP
    sheet = PillowImage.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (name, images) in enumerate(rows):
        top = GAP + i * (size + GAP)
        draw.text((4, top + size // 2), name, fill="black", font=font, anchor="lm")
        for j, pixels in enumerate(images):
            sheet.paste(PillowImage.fromarray(pixels), (label_width + j * (size + GAP), top))
    return np.asarray(sheet)
