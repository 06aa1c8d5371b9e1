"""Tune the base's VAE decoder with features of a frozen published network in its loss (a pilot).

    python decoder_pilot.py EUROSAT/train --arm crops --minutes 8 --watch W/lite0 --work W
    python decoder_pilot.py EUROSAT/train --arm crops --minutes 8 --watch W/lite0 --work W --start W/crops-8.safetensors

Encoder, quant_conv and so all latents stay as they are; the decoder and post_quant_conv are trained on the training
images (the validation part's file names are left out). All arms take the same core time (the process's own CPU time),
begin at the shipped decoder and keep its losses of pixels (`dpd_train.vae.DECODER`: L1, coarse, chroma, spectral,
in units of each image's contrast); the project's own perceptual networks do not take part, as they are not shipped.

pixels     the losses of pixels alone
whole      and LPIPS and window statistics of the published network's maps, of whole images enlarged to its side
crops      the same, of one random crop for each image, of half the side, of the enlarged image
adversary  crops, and a projected discriminator: small heads on the same maps tell real from decoded crops
           (Sauer et al. 2021, Projected GANs)

The rate is constant after a warm-up; what is kept is a power-function average (Karras et al. 2024), at quarters of
the time, so that the trend over steps can be seen. Stops between steps while the file PAUSE of --work's parent exists.
"""

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from scene_lists import read_parts
from torch import nn
from torch.nn import functional as F

from dpd_train.bases import load_base
from dpd_train.compute import step_generator
from dpd_train.denoiser import PowerAverage
from dpd_train.loop import set_learning_rate
from dpd_train.published import PublishedModel, _stages, open_published
from dpd_train.scene_set import to_float
from dpd_train.symmetry import ORDER, d4
from dpd_train.vae import DECODER, _pixel_losses, perceptual_loss, reconstruction_metrics, statistics_loss

SEED, BATCH, WARMUP = 0, 8, 50
SIDE = 224
FINE = 3  # maps whose window statistics count; coarser ones have too few places
MAPS = (2, 3, 5, 7)  # which maps the adversary's heads see: 28 × 28 × 40, 14 × 14 × 80, 7 × 7 × 192, the last
HEAD = 64


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Weights of what the published network adds, and the side of what it sees (0: it does not take part)."""

    side: int = SIDE
    perceptual: float = 1.0
    statistics: float = 0.3
    adversary: float = 0.0
    rate: float = 2e-4


ARMS = {
    "pixels": Arm(side=0),
    "whole": Arm(),
    "crops": Arm(side=SIDE // 2),
    "adversary": Arm(side=SIDE // 2, adversary=0.3),
}


def maps_of(published: PublishedModel, images: torch.Tensor) -> list[torch.Tensor]:
    """Maps [n, C, h, w] at the end of each stage but the stem, and the last layer's, of images in [-1, 1]."""
    shown = images * published.colours.scale + published.colours.shift
    out = published.model(pixel_values=shown, output_hidden_states=True)
    return [*_stages(out.hidden_states), out.last_hidden_state]


def cropped(images: torch.Tensor, side: int, corners: list[tuple[int, int]]) -> torch.Tensor:
    """The square of `side` at each image's corner, of images [n, 3, H, W] enlarged to SIDE."""
    large = F.interpolate(images, (SIDE, SIDE), mode="bilinear", align_corners=False)
    if side == SIDE:
        return large
    return torch.stack([x[:, i : i + side, j : j + side] for x, (i, j) in zip(large, corners, strict=True)])


class Heads(nn.ModuleList):
    """One small discriminator on each of some maps."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__(
            nn.Sequential(nn.Conv2d(width, HEAD, 1), nn.LeakyReLU(0.2), nn.Conv2d(HEAD, HEAD, 3, padding=1),
                          nn.GroupNorm(8, HEAD), nn.LeakyReLU(0.2), nn.Conv2d(HEAD, 1, 1))
            for width in widths
        )  # fmt: skip

    def forward(self, maps: list[torch.Tensor], scales: list[torch.Tensor]) -> list[torch.Tensor]:
        return [head(maps[i] / scale) for head, i, scale in zip(self, MAPS, scales, strict=True)]


def trainable(vae: AutoencoderKL) -> nn.ModuleDict:
    return nn.ModuleDict({"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv})


def train(name: str, arm: Arm, args: argparse.Namespace) -> None:
    torch.manual_seed(SEED)
    train_part, held = read_parts(args.data, 100)
    images = torch.from_numpy(train_part.images)
    odd = to_float(torch.from_numpy(held.images[1::5]))  # 200 images for PSNR, not of the even half
    vae = load_base("nano").vae
    modules = trainable(vae)
    if args.start:
        modules.load_state_dict(load_file(args.start))
    vae.requires_grad_(False)
    modules.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(modules.parameters(), betas=(0.9, 0.99), weight_decay=0.01)
    average = PowerAverage(modules, 0.1)
    published = open_published(str(args.watch)) if arm.side else None
    heads, scales, judge = None, [], None
    if published is not None and arm.adversary:
        with torch.no_grad():
            seen = maps_of(published, cropped(to_float(images[:: len(images) // 64]), SIDE, []))
        scales = [seen[i].std(dim=(0, 2, 3), keepdim=True) + 1e-3 for i in MAPS]
        heads = Heads([seen[i].shape[1] for i in MAPS])
        judge = torch.optim.Adam(heads.parameters(), 5e-4, betas=(0.5, 0.99))
    training = replace(DECODER, batch=BATCH, **args.pixels)
    label = f"{name}{args.suffix}-{args.minutes:g}"
    began, budget, step, kept = time.process_time(), 60 * args.minutes, 0, 0
    trend: list[dict[str, float]] = []

    def keep(share: float) -> None:
        weights = {key: value.contiguous() for key, value in average.modules.state_dict().items()}
        path = args.work / f"{label}{'' if share >= 1 else f'@{share:g}'}.safetensors"
        save_file(weights, path)
        now = {key: value.clone() for key, value in modules.state_dict().items()}
        modules.load_state_dict(average.modules.state_dict())
        trend.append({"share": share, "steps": step} | reconstruction_metrics(vae, odd))
        modules.load_state_dict(now)
        print(path.name, trend[-1], flush=True)

    while (spent := time.process_time() - began) < budget or step % 25:
        while (args.work.parent / "PAUSE").exists():
            time.sleep(5)
        if spent >= (kept + 1) * budget / 4 and kept < 3:
            kept += 1
            keep(kept / 4)
        set_learning_rate(optimizer, arm.rate * min(1, (step + 1) / WARMUP))
        generator = step_generator(SEED, step)
        rows = torch.randint(len(images), (BATCH,), generator=generator)
        batch = d4(to_float(images[rows]), int(torch.randint(ORDER, (1,), generator=generator)))
        element = int(torch.randint(ORDER, (1,), generator=generator))
        with torch.no_grad():
            posterior = vae.encode(batch).latent_dist
            latents = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=generator)
            spread = training.latent_noise * float(torch.rand(1, generator=generator)) * latents.std()
            latents = d4(latents + spread * torch.randn(latents.shape, generator=generator), element).contiguous()
        targets = d4(batch, element).contiguous()
        reconstructed = vae.decode(latents).sample
        parts = _pixel_losses(training, reconstructed, targets)
        if published is not None:
            reach = SIDE - arm.side
            corners = [tuple(c) for c in torch.randint(reach + 1, (BATCH, 2), generator=generator).tolist()]
            with torch.no_grad():
                wanted = maps_of(published, cropped(targets, arm.side, corners))
            maps = maps_of(published, cropped(reconstructed, arm.side, corners))
            parts["perceptual"] = arm.perceptual * perceptual_loss(maps, wanted)
            parts["statistics"] = arm.statistics * statistics_loss(maps[:FINE], wanted[:FINE])
            if heads is not None and judge is not None:
                heads.requires_grad_(False)
                told = heads(maps, scales)
                parts["adversary"] = (
                    -arm.adversary * min(1.0, step / 200) * torch.stack([t.mean() for t in told]).mean()
                )
        if step == 0 and args.gradients:
            for key, part in parts.items():
                norm = torch.autograd.grad(part, reconstructed, retain_graph=True)[0].norm()
                print(f"{key}: {float(part.detach()):.4f}, norm of its gradient {float(norm):.5f}", flush=True)
        optimizer.zero_grad()
        torch.stack(list(parts.values())).sum().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        optimizer.step()
        if heads is not None and judge is not None:
            heads.requires_grad_(True)
            real, made = heads(wanted, scales), heads([m.detach() for m in maps], scales)
            pairs = zip(real, made, strict=True)
            hinge = torch.stack([F.relu(1 - r).mean() + F.relu(1 + m).mean() for r, m in pairs]).mean()
            judge.zero_grad()
            hinge.backward()  # type: ignore[no-untyped-call]
            judge.step()
        average.update(modules, step)
        step += 1
        if step % 50 == 0:
            extra = f" hinge {float(hinge.detach()):.3f}" if heads is not None else ""
            text = " ".join(f"{key} {float(part.detach()):.4f}" for key, part in parts.items())
            print(f"{label}: {step} steps, {100 * spent / budget:.0f} %, {text}{extra}", flush=True)
    keep(1)
    record = {
        "arm": name,
        "settings": vars(arm),
        "pixels": args.pixels,
        "core_minutes": args.minutes,
        "steps": step,
        "batch": BATCH,
    }
    record |= {"start": str(args.start or "shipped"), "seed": SEED, "trend": trend}
    (args.work / f"{label}.json").write_text(json.dumps(record, indent=1))


def numbers(text: str) -> dict[str, float]:
    """`name=number,name=number` as a table."""
    pairs = (change.split("=") for change in text.split(",") if change)
    return {name: float(value) for name, value in pairs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--arm", choices=ARMS, required=True)
    parser.add_argument("--minutes", type=float, required=True, help="of one core")
    parser.add_argument("--watch", type=Path, help="folder of the published network")
    parser.add_argument("--start", type=Path, help="weights to go on from; the shipped decoder unless given")
    parser.add_argument(
        "--set", type=numbers, default={}, help="changes of the arm, as name=number, separated by commas"
    )
    parser.add_argument("--pixels", type=numbers, default={}, help="changes of the losses of pixels, in the same way")
    parser.add_argument("--suffix", default="", help="of the file names")
    parser.add_argument("--gradients", action="store_true", help="print the gradients of the first step's losses")
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    train(args.arm, replace(ARMS[args.arm], **args.set), args)


if __name__ == "__main__":
    main()
