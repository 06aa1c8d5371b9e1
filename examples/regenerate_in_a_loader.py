# ruff: noqa: TID251, TID253 - PyTorch is what this example is about
"""Train on images that are generated while the training runs, without a set on the disk.

    python examples/regenerate_in_a_loader.py site.dpd --steps 200 --workers 2

Needs PyTorch and dpd-distill[cpu]. Each worker of the DataLoader opens the bundle itself and computes its own blocks.
Together they give every image of every class once, in the order of `dpd generate`'s indices, without an end. Each image
equals the one that `dpd generate` writes for the same bundle, seed, class and index.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from dpd_runtime import Generation, embedded_bundle, load_bundle
from dpd_runtime.bundle.classes import SceneClass
from dpd_runtime.generation.block import Block
from dpd_runtime.machine.cores import usable_cores
from dpd_runtime.sampling.sampler import BLOCK

MOST = 2**32  # indices per class


class Regenerated(IterableDataset[tuple[torch.Tensor, int]]):
    """Pairs of image (float32 [3, H, W] in 0 … 1) and label, without an end unless `ipc` is given."""

    def __init__(
        self,
        bundle: Path,
        seed: int = 0,
        ipc: int | None = None,
        classes: tuple[str, ...] | None = None,
        mixed: int = 200,
    ) -> None:
        """Args:
        ipc: images per class; None means without an end.
        mixed: number of images that each worker shuffles: a block has one class, a batch should have many.
        """
        self.bundle, self.seed, self.ipc, self.classes, self.mixed = bundle, seed, ipc or MOST, classes, mixed

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
        worker = get_worker_info()
        number, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        generation = Generation(
            load_bundle(self.bundle),  # opened in the worker: ONNX Runtime sessions cannot move between processes
            ipc=self.ipc,
            seed=self.seed,
            classes=self.classes,
            threads=max(1, usable_cores() // count),
        )
        draws = np.random.default_rng([self.seed, number])
        waiting: list[tuple[torch.Tensor, int]] = []
        for images in generation.stream(self.blocks(generation.classes, number, count)):
            for image in images:
                waiting.append((torch.from_numpy(image.pixels).permute(2, 0, 1) / 255, image.label))
            while len(waiting) > self.mixed:
                yield waiting.pop(int(draws.integers(len(waiting))))
        while waiting:
            yield waiting.pop(int(draws.integers(len(waiting))))

    def blocks(self, classes: tuple[SceneClass, ...], number: int, count: int) -> Iterator[Block]:
        """Yield every count-th block, all classes in turn, in an order that the seed decides."""
        place = 0
        for row in range(-(-self.ipc // BLOCK)):
            order = np.random.default_rng([self.seed, row]).permutation(len(classes))
            for label in order:
                if place % count == number:
                    yield Block(classes[label], row)
                place += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?", default=embedded_bundle())
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    classes = len(load_bundle(args.bundle).classes)
    loader = DataLoader(Regenerated(args.bundle, args.seed), batch_size=args.batch, num_workers=args.workers)
    model = nn.Sequential(
        *(nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64 * 16, classes)),
    )
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    begun = time.monotonic()
    for step, (images, labels) in zip(range(1, args.steps + 1), loader, strict=False):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate = step * args.batch / (time.monotonic() - begun)
        print(f"step {step}: loss {loss.item():.3f}, {rate:.1f} images per second", flush=True)


if __name__ == "__main__":
    main()
