"""Images of a bundle for PyTorch's DataLoader. The only module of dpd_runtime that imports PyTorch.

Examples:
    >>> from torch.utils.data import DataLoader
    >>> from dpd_runtime.torch import DistilledImages
    >>> loader = DataLoader(DistilledImages("site.dpd", ipc=50), batch_size=64, num_workers=2)
    >>> for images, labels in loader: ...  # float32 [64, 3, H, W] in 0 … 1, int64 [64]
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from math import prod
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np

from dpd_runtime.annotations import Pixels
from dpd_runtime.budget import SHARE, check_budget
from dpd_runtime.bundle import Bundle, load_bundle
from dpd_runtime.dataset import disk_errors
from dpd_runtime.errors import InputError, MissingExtraError
from dpd_runtime.files import check_writable, write_atomically
from dpd_runtime.generation import Generation, check_codes, check_request
from dpd_runtime.machine import usable_cores, usable_memory
from dpd_runtime.networks import Block
from dpd_runtime.sampler import BLOCK

try:
    import torch
    from torch.utils.data import IterableDataset, get_worker_info
except ImportError as error:
    raise MissingExtraError("torch", "train") from error

_log = logging.getLogger(__name__)
Transform = Callable[[torch.Tensor], Any]


class DistilledImages(IterableDataset[tuple[Any, int]]):
    """The images that `dpd generate` would write, computed while a training runs, and kept for the next pass.

    Each worker of a DataLoader computes its own blocks of ten images, so that all workers together give every image
    once; with several workers the last batch of each may be small. The order depends on the seed and the number of
    workers only. Every pass gives the same images; for other images take another seed.

    The networks work in blocks of ten images of a class: two images of a class cost as much as ten, and eleven as much
    as twenty.

    What was made is kept, so that a second pass runs no network. It is kept in memory, as uint8: len(self) · H · W · 3
    bytes, 6 MB for 500 images of 64 px, and at most a sixteenth of the machine's memory: larger sets are made anew in
    each pass, with a warning. Workers that are forked share that memory. Others (Windows, macOS, Python 3.14) have
    their own while they live: give the DataLoader persistent_workers=True. With `out` it is kept in a folder instead,
    of any size, for later sessions and for workers of every kind.
    """

    def __init__(
        self,
        bundle: Bundle | str | Path | None = None,
        *,
        ipc: int,
        seed: int = 0,
        classes: Sequence[str] | None = None,
        transform: Transform | None = None,
        provider: str = "auto",
        mixed: int = 200,
        out: str | Path | None = None,
    ) -> None:
        """Args:
            bundle: an opened one, as an encrypted one must be, or its path; None for the embedded one.
            ipc: images per class, ≥ 1.
            seed: 0 … 2**64 - 1. classes: names; None for all. Labels are the bundle's in both cases.
            transform: is given an image, float32 [3, H, W] in 0 … 1; what it returns is given to the training.
            provider: as in `dpd_runtime.generate`.
            mixed: images among which each worker shuffles: a block has one class, a batch should have many.
            out: a folder of your own for the images, as one .npy file for each block; several sets may share it.

        Raises:
            BundleError: the bundle cannot be opened; from a pass, its images would take too much memory.
            InputError: ipc or seed is out of range, a class is unknown, or a codes-only bundle has fewer codes; from a
                pass, a file in `out` is damaged.
            DiskError: nothing can be written to `out`.
        """
        check_request(ipc, seed)
        self.bundle = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
        self.classes = self.bundle.select_classes(classes)
        check_codes(self.bundle, ipc, self.bundle.manifest.sampler)
        self.ipc, self.seed, self.transform, self.provider, self.mixed = ipc, seed, transform, provider, mixed
        self._position = {scene.label: position for position, scene in enumerate(self.classes)}
        self._kept = self._place(out)

    def _place(self, out: str | Path | None) -> "_Memory | _Folder | None":
        shape = min(BLOCK, self.ipc), *self.bundle.manifest.image_shape
        if out is not None:
            folder = Path(out)
            check_writable(folder / "new")
            return _Folder(folder, f"{self.bundle.hash[:16]}-{self.seed}", shape)
        needed, memory = len(self) * prod(self.bundle.manifest.image_shape), usable_memory()
        if memory is not None and needed > SHARE * memory:
            _log.warning(
                "%d images would take %.0f MB, more than 1/%.0f of the memory: they are made anew in each pass, unless "
                "DistilledImages gets out=FOLDER",
                *(len(self), needed / 1e6, 1 / SHARE),
            )
            return None
        return _Memory(len(self.classes) * -(-self.ipc // BLOCK), shape)

    def __len__(self) -> int:
        return len(self.classes) * self.ipc

    def __repr__(self) -> str:
        height, width, bands = self.bundle.manifest.image_shape
        name, kept = self.bundle.manifest.name, "not kept" if self._kept is None else self._kept
        return (
            f"DistilledImages({name!r}, {len(self)} images of {len(self.classes)} classes, {height} × {width} × "
            f"{bands}, seed {self.seed}, {kept})"
        )

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        """Yield (image or what `transform` made of it, label).

        Raises:
            ProviderError: the provider does not work here.
            DegenerateImageError: NaN or constant pixels.
        """
        worker = get_worker_info()
        number, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        draws = np.random.default_rng([self.seed, number])
        waiting: list[tuple[Pixels, int]] = []
        for images, label in self._images(list(self.blocks(number, count)), count):
            waiting += [(image.copy(), label) for image in images]  # a view would keep its whole block
            while len(waiting) > self.mixed:
                yield self._given(*waiting.pop(int(draws.integers(len(waiting)))))
        while waiting:
            yield self._given(*waiting.pop(int(draws.integers(len(waiting)))))

    def _images(self, blocks: Sequence[Block], count: int) -> Iterator[tuple[Pixels, int]]:
        """The images of each block, uint8 [n, H, W, N], kept or made now, and their label."""
        kept = self._kept
        there = [kept is not None and kept.has(self._place_of(block)) for block in blocks]
        missing = [block for block, found in zip(blocks, there, strict=True) if not found]
        made = self._made(missing, count) if missing else iter(())
        for block, found in zip(blocks, there, strict=True):
            images = kept.get(self._place_of(block)) if kept is not None and found else next(made)
            yield images, block.scene_class.label

    def _made(self, blocks: Sequence[Block], count: int) -> Iterator[Pixels]:
        """Compute blocks, and keep them."""
        generation = Generation(  # made in the worker: sessions of ONNX Runtime cannot move between processes
            self.bundle,
            ipc=self.ipc,
            seed=self.seed,
            classes=tuple(scene.name for scene in self.classes),
            provider=self.provider,
            threads=max(1, usable_cores() // count),
        )
        check_budget(self.bundle, generation.sampler, self.mixed * prod(self.bundle.manifest.image_shape))
        for block, images in zip(blocks, generation.stream(blocks), strict=True):
            pixels = np.stack([image.pixels for image in images])
            if self._kept is not None:
                self._kept.put(self._place_of(block), pixels)
            yield pixels

    def _place_of(self, block: Block) -> "_Place":
        label = block.scene_class.label
        number = self._position[label] * -(-self.ipc // BLOCK) + block.number
        return _Place(number, f"{label}-{block.number}", min(BLOCK, self.ipc - BLOCK * block.number))

    def blocks(self, number: int, count: int) -> Iterator[Block]:
        """The blocks of worker `number` of `count`: every count-th one, with the classes of each row shuffled."""
        place = 0
        for row in range(-(-self.ipc // BLOCK)):
            for chosen in np.random.default_rng([self.seed, row]).permutation(len(self.classes)):
                if place % count == number:
                    yield Block(self.classes[chosen], row)
                place += 1

    def _given(self, pixels: Pixels, label: int) -> tuple[Any, int]:
        image = torch.from_numpy(pixels).permute(2, 0, 1) / 255
        return (image if self.transform is None else self.transform(image)), label


@dataclass(frozen=True)
class _Place:
    """A block of so many `images`: its number among all blocks, and a name."""

    number: int
    name: str
    images: int


class _Memory:
    """Blocks in memory that is shared with workers that are forked; another worker begins with none."""

    def __init__(self, blocks: int, shape: tuple[int, ...]) -> None:
        """`shape` [images, H, W, N] of a whole block. The system gives memory only to what is filled."""
        self._of = blocks, shape
        self._filled = np.frombuffer(mmap(-1, blocks), np.uint8)
        self._pixels = np.frombuffer(mmap(-1, blocks * prod(shape)), np.uint8).reshape(blocks, *shape)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._of

    def __str__(self) -> str:
        return f"kept in memory, {self._pixels.nbytes / 1e6:.1f} MB"

    def has(self, place: _Place) -> bool:
        return bool(self._filled[place.number])

    def get(self, place: _Place) -> Pixels:
        return self._pixels[place.number, : place.images]

    def put(self, place: _Place, pixels: Pixels) -> None:
        self._pixels[place.number, : place.images] = pixels
        self._filled[place.number] = 1  # last: what is half written does not count


@dataclass(frozen=True)
class _Folder:
    """Blocks as files `<set>-<label>-<number>-<images>.npy`, uint8 [images, H, W, N]. `shape` is of a whole block."""

    folder: Path
    set: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"kept in {self.folder}"

    def _path(self, place: _Place) -> Path:
        return self.folder / f"{self.set}-{place.name}-{place.images}.npy"

    def has(self, place: _Place) -> bool:
        return self._path(place).exists()

    def get(self, place: _Place) -> Pixels:
        path, shape = self._path(place), (place.images, *self.shape[1:])
        try:
            found = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: its header may ask for any size
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{path}: cannot be read ({error}); delete it, and it is made again") from None
        if found.shape != shape or found.dtype != np.uint8:
            kind = f"{found.dtype} {found.shape}, not uint8 {shape}"
            raise InputError(f"{path}: is {kind}; delete it, and it is made again")
        return np.array(found)

    def put(self, place: _Place, pixels: Pixels) -> None:
        content = BytesIO()
        np.save(content, pixels, allow_pickle=False)
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path(place), content.getvalue())
