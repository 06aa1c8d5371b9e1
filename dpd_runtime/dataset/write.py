"""The distilled set on disk: images with their metadata, resumable after a kill at any moment (DESIGN §8)."""

import errno
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dpd_runtime.annotations import Pixels
from dpd_runtime.dataset.digest import SetDigest
from dpd_runtime.dataset.finish import Label, complete
from dpd_runtime.dataset.finished import begin_again, finished_set, remove_unfinished
from dpd_runtime.dataset.folder import check_output_folder
from dpd_runtime.dataset.formats import PNG, Output, folder_name
from dpd_runtime.dataset.records import describe, header_of, record_of
from dpd_runtime.dataset.shards import WHOLE, Shard, Worker
from dpd_runtime.dataset.state import DATASET_NAME, STATE_NAME, State
from dpd_runtime.errors import DiskError
from dpd_runtime.files import write_atomically
from dpd_runtime.generation.block import Block, Image
from dpd_runtime.generation.generate import Generation
from dpd_runtime.generation.overlap import writing_behind
from dpd_runtime.generation.teacher import load_teacher

PLAIN = Output()


@dataclass(frozen=True)
class DistilledSet:
    """What `write_set` leaves.

    Args:
        images: of the whole set, or of this shard where others are not done.
        computed: by this call.
        set_hash: None where other shards are not done.
        left: images of the set which nobody has finished yet; with 0 and no hash another shard is about to end it.
    """

    out: Path
    images: int
    classes: int
    computed: int
    set_hash: str | None
    left: int = 0


def file_name(class_name: str, index: int) -> str:
    """The name of an image of a set in PNG files."""
    return folder_name(class_name, 0, index, PNG.suffix)


def set_hash(images: Iterable[tuple[str, int, Pixels]]) -> str:
    """The set hash (DESIGN §8) of (class name, index, uint8 [H, W, 3]) in any order."""
    digest = SetDigest()
    for entry in sorted(images, key=lambda entry: (entry[0].encode(), entry[1])):
        digest.update(*entry)
    return digest.hexdigest()


def _disk_error(error: OSError, out: Path) -> DiskError:
    reason = {errno.ENOSPC: "the disk is full", errno.EROFS: "the disk is read-only"}.get(
        error.errno or 0, error.strerror or str(error)
    )
    return DiskError(f"{out}: {reason}; finished images are kept, run the same command again to go on")


def write_set(
    generation: Generation,
    out: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
    output: Output = PLAIN,
    shard: Shard = WHOLE,
) -> DistilledSet:
    """Write every missing image of `generation` under `out`, then the metadata. A second call does only what is left.

    Args:
        shard: of several processes with the same `out`, each with its own; the last one to finish ends the set.

    Raises:
        OutputFolderError: `out` holds something else, or a set made with other settings, or is being written.
        MissingExtraError, InputError: what `output` needs is not there.
        DiskError: the disk is full, read-only or gone; what was finished stays.
    """
    output.check()
    check_output_folder(out)
    generation.load()  # what cannot run is said before anything is written
    label = None
    if output.soft_labels:
        label = load_teacher(generation.bundle, generation.provider, generation.threads)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with Worker(out, shard) as worker:
            return _Writing(generation, out, output, shard).run(worker, progress, label)
    except OSError as error:
        raise _disk_error(error, out) from error


class _Writing:
    """One process's part of writing a set."""

    def __init__(self, generation: Generation, out: Path, output: Output, shard: Shard) -> None:
        self.generation, self.out, self.output, self.shard = generation, out, output, shard
        self.header = header_of(generation, output)
        self.folder, self.encoding = output.block_folder(out), output.block_encoding
        self.blocks = shard.of(generation.blocks())

    def run(self, worker: Worker, progress: Callable[[int, int], None], label: Label | None) -> DistilledSet:
        generation, out, output = self.generation, self.out, self.output
        with worker.turn():
            finished = None if output.direct else finished_set(out, self.header, generation.ipc, output)
            if finished is not None:
                progress(len(generation), len(generation))
                return DistilledSet(out, len(generation), len(generation.classes), 0, finished["set_hash"])
            state = State(out, self.header, generation.ipc, self.shard, alone=worker.alone())
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
        """The file of each image by its index."""
        scene, suffix = block.scene_class, self.encoding.suffix
        indices = (i for i in block.indices if i < self.generation.ipc)
        return {i: folder_name(scene.name, scene.label, i, suffix) for i in indices}

    def done(self, state: State, names: dict[int, str]) -> bool:
        return all(state.intact(self.folder, name) for name in names.values())

    def write_blocks(self, state: State, progress: Callable[[int, int], None]) -> int:
        """Write the image files of every block which is not whole; how many images were computed."""
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
                write_atomically(self.folder / name, self.encoding.encode(image.pixels))
                records.append(record_of(image, name, self.generation.seed))
            state.append(records)

        with writing_behind(write) as put:
            for images in self.generation.stream(missing()):
                put(images)
                count(len(images))
                computed += len(images)
        return computed

    def end(self, state: State, computed: int, label: Label | None) -> DistilledSet:
        """What is made of all images together, by who works alone."""
        out = self.out
        if self.shard != WHOLE:
            state.join_shards()
        completed = complete(self.generation, out, self.output, state, label)
        dataset = describe(self.generation, self.output, completed) | {"made_with": self.header, "state": "complete"}
        write_atomically(out / DATASET_NAME, (json.dumps(dataset, indent=1) + "\n").encode())
        (out / STATE_NAME).unlink()
        remove_unfinished(out)
        return DistilledSet(out, completed.images, len(self.generation.classes), computed, completed.set_hash)
