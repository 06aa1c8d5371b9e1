"""Writing a distilled set. It can be interrupted at any time and continued (docs/guides/generate.md)."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dpd_runtime.annotations import Progress
from dpd_runtime.bundle.budget import check_budget, label_bytes
from dpd_runtime.dataset.card import CARD_NAME, CLASSES_NAME, class_list, dataset_card
from dpd_runtime.dataset.croissant import CROISSANT_NAME, croissant
from dpd_runtime.dataset.finish import Label, complete
from dpd_runtime.dataset.folder import (
    begin_again,
    check_output_folder,
    disk_errors,
    finished_set,
    remove_partials,
    remove_set,
    remove_unfinished,
)
from dpd_runtime.dataset.formats import Output, folder_name
from dpd_runtime.dataset.records import describe, header_of, record_of
from dpd_runtime.dataset.shards import WHOLE, Shard, Worker
from dpd_runtime.dataset.state import DATASET_NAME, STATE_NAME, State
from dpd_runtime.files import check_no_links, write_atomically
from dpd_runtime.generation.block import Block, Image
from dpd_runtime.generation.generate import Generation
from dpd_runtime.generation.overlap import writing_behind
from dpd_runtime.generation.teacher import load_teacher

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
        dataset = describe(self.generation, self.output, completed) | {"made_with": self.header, "state": "complete"}
        self.write_texts(completed.set_hash)
        write_atomically(out / DATASET_NAME, (json.dumps(dataset, indent=1, allow_nan=False) + "\n").encode())
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
