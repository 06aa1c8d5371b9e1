"""A distilled set as a dataset of PyTorch, with the bundle's labels and soft labels.

    python examples/set_as_dataset.py distilled

Needs PyTorch, Pillow and safetensors, and no dpd. torchvision's ImageFolder reads the same folder; it numbers the
classes anew if the set has only some of them, and knows no soft labels.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import DataLoader, Dataset


class DistilledSet(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Images float32 [3, H, W] in [0, 1], and labels: int64 [], or probabilities float32 [classes] if `soft`."""

    def __init__(self, root: str, soft: bool = False) -> None:
        self.root = Path(root)
        self.records = [json.loads(line) for line in (self.root / "metadata.jsonl").read_text().splitlines()]
        self.classes = (self.root / "classes.txt").read_text().splitlines()
        self.soft = load_file(self.root / "soft_labels.safetensors")["soft_labels"] if soft else None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        record = self.records[index]
        with Image.open(self.root / record["file_name"]) as image:
            pixels = np.array(image.convert("RGB"))
        label = torch.tensor(record["label"]) if self.soft is None else self.soft[index]
        return torch.from_numpy(pixels).permute(2, 0, 1) / 255, label


if __name__ == "__main__":
    data = DistilledSet(sys.argv[1])
    images, labels = next(iter(DataLoader(data, batch_size=32, shuffle=True)))
    print(
        f"{len(data)} images of {len(data.classes)} classes; a batch: {list(images.shape)}, labels {list(labels.shape)}"
    )
