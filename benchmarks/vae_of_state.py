"""Measure the VAE in a state of `dpd pretrain` on each source's validation images; --folder keeps it for ceiling.py.

    python benchmarks/vae_of_state.py STATE/autoencoder.safetensors --data eurosat/train ucmerced/train \
        --val-per-class 100 10 --out judged.json --folder base

Images larger than the base are measured at each scale. Scale 0 is the whole image.
"""

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from result_file import tell

from dpd_train.bases.latents import weights_hash
from dpd_train.bases.nano import nano_vae
from dpd_train.compute.checkpoint import load_state, without_prefix
from dpd_train.held_out import HeldOut
from dpd_train.images import natural_side, read_scenes, to_float
from dpd_train.images.crops import ONE_OF_EACH, multi_scale
from dpd_train.vae.autoencoder import reconstruction_metrics


def vae_of_state(path: Path, resolution: int) -> tuple[AutoencoderKL, int]:
    """Return the network and its number of training steps."""
    tensors, meta = load_state(path)
    weights = {name: value.float() for name, value in without_prefix("vae", tensors).items()}
    vae = nano_vae(resolution, weights["post_quant_conv.weight"].shape[0])
    vae.load_state_dict(weights)
    return vae.eval(), meta["step"]


def judged(vae: AutoencoderKL, data: Path, held_out: int, resolution: int) -> dict[str, object]:
    """Return the metrics of each scale. Images no larger than the base are resized as `read_scenes` does."""
    side = max(resolution, natural_side(data))
    held, levels = multi_scale(
        read_scenes(data, part="val", resolution=side, held_out=HeldOut(val_per_class=held_out, split="names")),
        resolution,
        0,
        ONE_OF_EACH,
    )
    images = to_float(torch.from_numpy(held.images))
    return {
        f"scale {level}": {"images": int((levels == level).sum())}
        | reconstruction_metrics(vae, images[levels == level])
        for level in range(levels.max() + 1)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("state", type=Path)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--val-per-class", type=int, nargs="+", required=True)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--folder", type=Path, help="write the VAE to this folder, in diffusers' layout")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    vae, step = vae_of_state(args.state, args.resolution)
    if args.folder:
        vae.save_pretrained(args.folder / "vae")
    result: dict[str, object] = {
        "vae": weights_hash(vae),
        "step": step,
        "latent_channels": int(vae.config.latent_channels),
        "parameters": {"vae": vae.num_parameters(), "decoder": sum(p.numel() for p in vae.decoder.parameters())},
    }
    for data, held_out in zip(args.data, args.val_per_class, strict=True):
        result[data.parent.name if data.name == "train" else data.name] = judged(vae, data, held_out, args.resolution)
    tell(result, args.out)


if __name__ == "__main__":
    main()
