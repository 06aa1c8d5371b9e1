"""Train on images that are generated while the training runs, without a set on the disk.

    python examples/regenerate_in_a_loader.py site.dpd --epochs 10 --ipc 50 --workers 2

Needs PyTorch and the extra cpu. Every epoch takes another seed, and so other images.
"""

import argparse
import time

import torch
from torch import nn
from torch.utils.data import DataLoader

from dpd_runtime import load_bundle
from dpd_runtime.torch import DistilledImages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", help="default: the embedded one")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--ipc", type=int, default=50, help="images per class of each epoch")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    torch.manual_seed(0)
    bundle = load_bundle(args.bundle)
    model = nn.Sequential(
        *(nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64 * 16, len(bundle.classes))),
    )
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for epoch in range(args.epochs):
        begun, right = time.monotonic(), 0
        data = DistilledImages(bundle, ipc=args.ipc, seed=epoch)
        for images, labels in DataLoader(data, batch_size=args.batch, num_workers=args.workers):
            logits = model(images)
            loss = nn.functional.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            right += int((logits.argmax(1) == labels).sum())
        rate = len(data) / (time.monotonic() - begun)
        print(f"epoch {epoch}: {right / len(data):.1%} right before learning them, {rate:.0f} images per second")


if __name__ == "__main__":
    main()
