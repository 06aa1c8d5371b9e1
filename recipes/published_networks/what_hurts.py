"""What in a reconstruction hurts a probe on a published network: real images degraded in known ways (a pilot).

    python what_hurts.py EUROSAT/train --judges W/lite1 --work W --out results/what_hurts.json

Ten training images of each class (the subsets of judge_decoders.py), tested on the even half of the validation part as
it is. All arms are named with their PSNR and their energy of finite differences, ÷ real (today's decoder: 34.7 dB).

small48, small32   real images reduced to 48 (32) px and enlarged again: blur alone
noise              real images with white noise of 34.7 dB: no blur, no other artefact
half               the mean of real and rebuilt images
grain              rebuilt images with white noise that brings the energy of finite differences to the real images'
sharp              rebuilt images with an unsharp mask that brings it there
unbiased           rebuilt images with each class's mean error of pixels' Fourier amplitudes taken out (a linear filter
                   for all classes together, from other training images): what a linear decoder layer could mend
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from judge_decoders import IPC, probe, seen_by
from result_file import tell
from scene_lists import read_parts
from torch.nn import functional as F

from dpd_eval.selection import random_subset
from dpd_train.bases import decode_in_parts, encode, load_base
from dpd_train.scene_set import SceneSet
from dpd_train.vae import high_frequency_ratio

SUBSETS, PSNR = 3, 34.7


def resized(images: torch.Tensor, side: int) -> torch.Tensor:
    small = F.interpolate(images, (side, side), mode="bicubic", align_corners=False, antialias=True)
    return F.interpolate(small, images.shape[-2:], mode="bicubic", align_corners=False)


def sharpened(images: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Unsharp mask with the amount that gives the real images' energy of finite differences."""
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="reflect"), 3, 1)
    amounts = torch.linspace(0, 2, 81)
    ratios = [high_frequency_ratio((images + a * (images - blurred)).clamp(0, 255), real) for a in amounts]
    best = amounts[int(np.argmin(np.abs(np.array(ratios) - 1)))]
    return images + best * (images - blurred)


def grained(images: torch.Tensor, real: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    missing = (1 - high_frequency_ratio(images, real)) * sum(
        float((real.diff(dim=d).square()).mean()) for d in (2, 3)
    )  # of two differences, each with twice the noise's variance
    return images + max(missing, 0) ** 0.5 / 2 * torch.randn(images.shape, generator=generator)


def amplitudes(images: torch.Tensor) -> torch.Tensor:
    return torch.fft.rfft2(images).abs().square().mean(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--judges", required=True)
    parser.add_argument("--arms", default="small48,small32,noise,half,grain,sharp,unbiased")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    train, held = read_parts(args.data, 100)
    even: SceneSet = held.only(np.arange(0, len(held.labels), 2))
    base = load_base("nano")
    scale = float(base.vae.config.scaling_factor)
    labels = np.repeat(np.arange(len(train.classes)), IPC)

    def floats(images: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(images).permute(0, 3, 1, 2).float()

    def rebuilt_of(images: np.ndarray) -> torch.Tensor:
        return floats(decode_in_parts(base, encode(base.vae, images).numpy() * scale))

    others = train.images[random_subset(train.labels, 40, 999)]
    gain = (amplitudes(floats(others)) / amplitudes(rebuilt_of(others))).sqrt().clamp(0.5, 3)
    real = [floats(train.images[random_subset(train.labels, IPC, seed)]) for seed in range(SUBSETS)]
    rebuilt = [rebuilt_of(x.permute(0, 2, 3, 1).byte().numpy()) for x in real]
    makers = {
        "small48": lambda r, d, g: resized(r, 48),
        "small32": lambda r, d, g: resized(r, 32),
        "noise": lambda r, d, g: r + 255 / 10 ** (PSNR / 20) * torch.randn(r.shape, generator=g),
        "half": lambda r, d, g: (r + d) / 2,
        "grain": lambda r, d, g: grained(d, r, g),
        "sharp": lambda r, d, g: sharpened(d, r),
        "unbiased": lambda r, d, g: torch.fft.irfft2(torch.fft.rfft2(d) * gain),
    }
    result: dict[str, Any] = {}
    for arm in args.arms.split(","):
        parts = [
            makers[arm](r, d, torch.Generator().manual_seed(i)).round().clamp(0, 255)
            for i, (r, d) in enumerate(zip(real, rebuilt, strict=True))
        ]
        mse = torch.cat([(p - r).square().mean((1, 2, 3)) for p, r in zip(parts, real, strict=True)])
        found: dict[str, Any] = {
            "psnr": round(float((10 * torch.log10(255**2 / mse.clamp_min(1e-3))).mean()), 2),
            "finite differences ÷ real": round(high_frequency_ratio(torch.cat(parts), torch.cat(real)), 3),
        }
        for judge in args.judges.split(","):
            path = args.work / f"features-{Path(judge).name}-even.npy"
            test = np.load(path) if path.exists() else seen_by(judge, even.images)
            features = [seen_by(judge, p.permute(0, 2, 3, 1).byte().numpy()) for p in parts]
            found[Path(judge).name] = [probe(x, labels, [test], even.labels)[0] for x in features]
        result[arm] = found
        print(arm, found, flush=True)
        tell(result, args.out)


if __name__ == "__main__":
    main()
