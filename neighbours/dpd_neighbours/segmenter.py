"""A small U-Net (Ronneberger et al. 2015) that learns masks from few images in a minute on one core."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from dpd_eval.students import batches, random_flips, random_shift
from dpd_runtime.annotations import Images
from dpd_train.loop import Task, train, trapezium
from dpd_train.scene_set import to_float

WIDTHS, BATCH, RATE, SHIFT = (16, 32, 64), 16, 2e-3, 6
CALL = 64  # images in one call


def _twice(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (inputs, outputs):
        layers += [nn.Conv2d(width, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class Segmenter(nn.Module):
    """[B, 3, H, W] in [-1, 1] → logits [B, count, H, W]; H and W are multiples of 4."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(_twice(a, b) for a, b in zip((3, *WIDTHS[:-1]), WIDTHS, strict=True))
        self.up = nn.ModuleList(_twice(a + b, a) for a, b in pairwise(WIDTHS))
        self.head = nn.Conv2d(WIDTHS[0], count, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps: list[torch.Tensor] = []
        for number, layer in enumerate(self.down):
            x = layer(F.max_pool2d(x, 2) if number else x)
            maps.append(x)
        for number in reversed(range(len(self.up))):
            larger = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = self.up[number](torch.cat([maps[number], larger], dim=1))
        logits: torch.Tensor = self.head(x)
        return logits


def train_segmenter(images: Images, masks: npt.NDArray[np.uint8], count: int, steps: int, seed: int) -> Segmenter:
    """Train on images [n, H, W, 3] and numbers of values [n, H, W]; flips and shifts move both alike."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Segmenter(count).train()
    generator = torch.Generator().manual_seed(seed)
    together = torch.from_numpy(np.concatenate([images, masks[..., None]], axis=-1)).permute(0, 3, 1, 2)
    stream = batches(len(together), BATCH, generator)

    def loss(step: int, _: torch.Generator) -> torch.Tensor:
        batch = random_shift(random_flips(together[next(stream)], generator), SHIFT, generator)
        return F.cross_entropy(model(to_float(batch[:, :3].permute(0, 2, 3, 1))), batch[:, 3].long())

    trained = list(model.parameters())
    rate = trapezium(steps, RATE, warmup=min(100, steps // 5))
    task = Task(trained=trained, optimizer=torch.optim.AdamW(trained, lr=RATE), rate=rate, loss=loss, clip=None)
    train(task, steps, seed)
    return model.eval()


@torch.no_grad()
def segment(model: Segmenter, images: Images) -> npt.NDArray[np.uint8]:
    """The numbers of the most likely values [n, H, W]."""
    parts = torch.split(torch.from_numpy(np.ascontiguousarray(images)), CALL)
    return np.concatenate([model(to_float(part)).argmax(1).numpy().astype(np.uint8) for part in parts])
