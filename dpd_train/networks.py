"""Networks that tell classes apart."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from safetensors.torch import load_file, save
from torch import nn
from torch.nn import functional as F

from dpd_runtime.files import dumps, loads, write_atomically

# -- Small classifiers of pixels or latents: residual networks, their files and predictions, and learning rates.


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """Shape of a residual classifier.

    Args:
        in_channels: the bands of pixels in [-1, 1], 3 for RGB; the latent channels for latents.
        widths: channels of each stage; every stage after the first halves the resolution.
        blocks: residual blocks in each stage.
        stem_stride: 1 keeps full resolution in the first stage, 2 halves it.
        num_classes: length of the logits.
        dropout: probability before the last layer.
    """

    num_classes: int
    in_channels: int = 3
    widths: tuple[int, ...] = (32, 64, 128)
    blocks: tuple[int, ...] = (1, 2, 1)
    stem_stride: int = 2
    dropout: float = 0.1

    def to_dict(self) -> dict[str, object]:
        return asdict(self)

    def build(self) -> "ResNet":
        return ResNet(self)


class Classifier(nn.Module):
    """A network whose last map, averaged over its places, goes to a linear head: images [B, C, H, W] → logits."""

    dropout: nn.Module
    head: nn.Linear

    def features(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps of images [B, C, H, W]: the stem's, then each stage's or block's."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = self.features(x)[-1].mean(dim=(2, 3))
        logits: torch.Tensor = self.head(self.dropout(pooled))
        return logits


Network = TypeVar("Network", bound=Classifier, covariant=True)


class Shape(Protocol[Network]):
    """A configuration that builds a network with random weights."""

    def build(self) -> Network: ...


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with batch norm beside a shortcut (He et al. 2016, fig. 2)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = torch.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        return torch.relu(out + self.shortcut(x))


class ResNet(Classifier):
    """Residual classifier: [B, in_channels, H, W] → logits [B, num_classes]."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = nn.Sequential(
            nn.Conv2d(config.in_channels, config.widths[0], 3, config.stem_stride, 1, bias=False),
            nn.BatchNorm2d(config.widths[0]),
            nn.ReLU(),
        )
        channels = config.widths[0]
        stages = []
        for i, (width, count) in enumerate(zip(config.widths, config.blocks, strict=True)):
            blocks = []
            for j in range(count):
                blocks.append(ResidualBlock(channels, width, 2 if i > 0 and j == 0 else 1))
                channels = width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(channels, config.num_classes)

    def features(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps after the stem and after each stage, fine to coarse."""
        maps = [self.stem(x)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps


def count_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def predict(model: nn.Module, images: torch.Tensor, batch: int = 256) -> torch.Tensor:
    """Logits [n, num_classes] on the CPU of `images` [n, C, H, W], without gradients, in evaluation mode.

    Computed on the model's device; `images` may be on another one.
    """
    was_training = model.training
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(images[i : i + batch].to(device)) for i in range(0, len(images), batch)])
    model.train(was_training)
    return logits.cpu()


def teacher_shape(classes: int, bands: int = 3) -> ResNetConfig:
    """Shape of the teacher on pixels, 0.44 M parameters."""
    return ResNetConfig(num_classes=classes, in_channels=bands, widths=(32, 64, 128), blocks=(1, 2, 1), stem_stride=2)


def latent_classifier_shape(classes: int, channels: int) -> ResNetConfig:
    """Shape of the latent classifier, 0.25 M parameters."""
    return ResNetConfig(num_classes=classes, in_channels=channels, widths=(48, 96), blocks=(1, 1), stem_stride=1)


def shape_to_json(config: ResNetConfig) -> bytes:
    """The content of config.json."""
    return dumps(asdict(config))


def shape_from_json(content: dict[str, Any]) -> ResNetConfig:
    """Read what `shape_to_json` wrote. Nothing is built before the numbers are known to be small.

    Raises:
        KeyError, TypeError, ValueError: a field is missing, unknown, of another kind or out of range.
    """
    shape = ResNetConfig(**content | {name: tuple(content[name]) for name in ("widths", "blocks")})
    largest = {"num_classes": 10**6, "in_channels": 64, "stem_stride": 2}
    numbers = [(getattr(shape, name), most) for name, most in largest.items()]
    numbers += [(len(shape.widths), 8), *((width, 4096) for width in shape.widths), *((n, 64) for n in shape.blocks)]
    if len(shape.widths) != len(shape.blocks) or not all(0 < value <= most for value, most in numbers):
        raise ValueError("a number is out of range")
    return shape


def weights_to_bytes(model: nn.Module) -> bytes:
    """The content of a safetensors file with the model's weights."""
    return save({name: tensor.contiguous() for name, tensor in model.state_dict().items()})


def save_classifier(model: ResNet, folder: Path) -> None:
    """Write config.json and model.safetensors into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "config.json", shape_to_json(model.config))
    write_atomically(folder / "model.safetensors", weights_to_bytes(model))


def load_classifier(folder: Path) -> ResNet:
    """Read what `save_classifier` wrote, in evaluation mode."""
    model = ResNet(shape_from_json(loads((folder / "config.json").read_text(encoding="utf-8"))))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval()


def accuracy(model: ResNet, inputs: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of `inputs` that the model puts into their class."""
    return float((predict(model, inputs).argmax(1) == labels).float().mean())


# -- Small attention networks: convolutions down to at most 8 × 8 tokens, then transformer blocks.


TOKENS = 8  # a side at most; larger maps are averaged, as the cost of attention grows with the square of the tokens
STRIDE = 8  # of both convolutions together
LONGEST_WAVE = 10_000.0


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """Shape of an attention network.

    Args:
        num_classes: length of the logits.
        width: channels of a token, a multiple of 4 and of `heads`.
        blocks: transformer blocks.
        heads: of each block.
        in_channels: bands of the images, 3 for RGB.
    """

    num_classes: int
    width: int
    blocks: int
    heads: int
    in_channels: int = 3

    def build(self) -> "AttentionNetwork":
        return AttentionNetwork(self)


class AttentionBlock(nn.Module):
    """Self-attention and two layers, each after a layer norm and beside a shortcut (Dosovitskiy et al. 2021, §3.1)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """[B, N, width] → [B, N, width]."""
        count, number, width = tokens.shape
        parts = self.qkv(self.norm1(tokens)).reshape(count, number, 3, self.heads, width // self.heads)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)
        # not fused: with so few tokens on a CPU the backward pass of fused attention takes twice as long
        weights = (queries @ keys.transpose(-1, -2) * (width // self.heads) ** -0.5).softmax(dim=-1)
        tokens = tokens + self.out((weights @ values).transpose(1, 2).reshape(count, number, width))
        output: torch.Tensor = tokens + self.mlp(self.norm2(tokens))
        return output


class AttentionNetwork(Classifier):
    """Attention network: [B, in_channels, H, W] → logits [B, num_classes]. H and W are at least STRIDE."""

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__()
        self.config = config
        narrow = config.width // 2
        self.stem = nn.Sequential(
            nn.Conv2d(config.in_channels, narrow, 5, 4, 2, bias=False),
            nn.BatchNorm2d(narrow),
            nn.ReLU(),
            nn.Conv2d(narrow, config.width, 3, 2, 1),
        )
        self.blocks = nn.ModuleList([AttentionBlock(config.width, config.heads) for _ in range(config.blocks)])
        self.norm = nn.LayerNorm(config.width)
        self.dropout = nn.Identity()
        self.head = nn.Linear(config.width, config.num_classes)

    def features(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Maps [B, width, h, w] of the stem and of each block."""
        stem = self.stem(x)
        height, breadth = (min(TOKENS, side) for side in stem.shape[2:])
        stem = F.adaptive_avg_pool2d(stem, (height, breadth))
        tokens = stem.flatten(2).transpose(1, 2) + positions(self.config.width, height, breadth).to(stem)
        maps = [stem]
        for number, block in enumerate(self.blocks):
            tokens = block(tokens)
            seen = self.norm(tokens) if number == len(self.blocks) - 1 else tokens
            maps.append(seen.transpose(1, 2).reshape(stem.shape))
        return maps


def positions(width: int, height: int, breadth: int) -> torch.Tensor:
    """Sines and cosines of row and column [height · breadth, width] (Vaswani et al. 2017, §3.5, a half for each)."""
    waves = LONGEST_WAVE ** (-torch.arange(width // 4) / (width // 4))
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(breadth), indexing="ij")
    angles = [place.flatten()[:, None] * waves for place in (rows, columns)]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)
