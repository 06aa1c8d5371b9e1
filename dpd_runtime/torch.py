"""Images of a bundle for PyTorch's DataLoader. The only module of dpd_runtime that imports PyTorch.

>>> from torch.utils.data import DataLoader
>>> from dpd_runtime.torch import DistilledImages
>>> loader = DataLoader(DistilledImages("site.dpd", ipc=50), batch_size=64, num_workers=2)
>>> for images, labels in loader: ...  # float32 [64, 3, H, W] in 0 … 1, int64 [64]
"""

from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from dpd_runtime.annotations import Pixels
from dpd_runtime.bundle.budget import check_budget
from dpd_runtime.bundle.bundle import Bundle, load_bundle
from dpd_runtime.errors import MissingExtraError
from dpd_runtime.generation.block import Block
from dpd_runtime.generation.generate import Generation, check_codes, check_request
from dpd_runtime.machine.cores import usable_cores
from dpd_runtime.sampling.sampler import BLOCK

try:
    import torch
    from torch.utils.data import IterableDataset, get_worker_info
except ImportError as error:
    raise MissingExtraError("torch", "train") from error

Transform = Callable[[torch.Tensor], Any]


class DistilledImages(IterableDataset[tuple[Any, int]]):
    """The images that `dpd generate` would write, computed while a training runs, with nothing on the disk.

    Each worker of a DataLoader computes its own blocks of ten images, so that all workers together give every image
    once; with several workers the last batch of each may be small. The order depends on the seed and the number of
    workers only. Every pass gives the same images; for other images take another seed.
    """

    def __init__(
        self,
        bundle: Bundle | str | Path | None = None,
        *,
        ipc: int,
        seed: int = 0,
        classes: tuple[str, ...] | None = None,
        transform: Transform | None = None,
        provider: str = "auto",
        mixed: int = 200,
    ) -> None:
        """Args:
            bundle: an opened one, as an encrypted one must be, or its path; None for the embedded one.
            ipc: images per class, ≥ 1.
            seed: 0 … 2**64 - 1. classes: names; None for all. Labels are the bundle's in both cases.
            transform: is given an image, float32 [3, H, W] in 0 … 1; what it returns is given to the training.
            provider: as in `dpd_runtime.generate`.
            mixed: images among which each worker shuffles: a block has one class, a batch should have many.

        Raises:
            BundleError: the bundle cannot be opened; from a pass, its images would take too much memory.
            InputError: ipc or seed is out of range, a class is unknown, or a codes-only bundle has fewer codes.
        """
        check_request(ipc, seed)
        self.bundle = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
        self.classes = self.bundle.select_classes(classes)
        check_codes(self.bundle, ipc, self.bundle.manifest.sampler)
        self.ipc, self.seed, self.transform, self.provider, self.mixed = ipc, seed, transform, provider, mixed

    def __len__(self) -> int:
        return len(self.classes) * self.ipc

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        """Yield (image or what `transform` made of it, label).

        Raises:
            ProviderError: the provider does not work here.
            DegenerateImageError: NaN or constant pixels.
        """
        worker = get_worker_info()
        number, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        generation = Generation(  # made in the worker: sessions of ONNX Runtime cannot move between processes
            self.bundle,
            ipc=self.ipc,
            seed=self.seed,
            classes=tuple(scene.name for scene in self.classes),
            provider=self.provider,
            threads=max(1, usable_cores() // count),
        )
        draws = np.random.default_rng([self.seed, number])
        check_budget(self.bundle, generation.sampler, self.mixed * prod(self.bundle.manifest.image_shape))
        waiting: list[tuple[Pixels, int]] = []
        for images in generation.stream(self.blocks(number, count)):
            waiting += [(image.pixels.copy(), image.label) for image in images]  # a view would keep its whole block
            while len(waiting) > self.mixed:
                yield self._given(*waiting.pop(int(draws.integers(len(waiting)))))
        while waiting:
            yield self._given(*waiting.pop(int(draws.integers(len(waiting)))))

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
