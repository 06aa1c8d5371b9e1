"""A distilled set as a dataset of TorchGeo, for its data modules and trainers.

    python examples/set_in_torchgeo.py distilled

Needs TorchGeo (`pip install torchgeo`), and no dpd.
"""

import sys
from typing import Any

import torch
from set_as_dataset import DistilledSet
from torch.utils.data import DataLoader
from torchgeo.datasets import NonGeoDataset


class DistilledScenes(NonGeoDataset):
    """Samples {"image": float32 [3, H, W] in [0, 1], "label": int64 []}, as of TorchGeo's EuroSAT."""

    def __init__(self, root: str, transforms: Any = None) -> None:
        self.set, self.transforms = DistilledSet(root), transforms
        self.classes = self.set.classes

    def __len__(self) -> int:
        return len(self.set)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        image, label = self.set[index]
        sample = {"image": image, "label": label}
        return sample if self.transforms is None else self.transforms(sample)


if __name__ == "__main__":
    data = DistilledScenes(sys.argv[1])
    batch = next(iter(DataLoader(data, batch_size=8)))
    print(f"{len(data)} samples of {len(data.classes)} classes; a batch: {list(batch['image'].shape)}")
