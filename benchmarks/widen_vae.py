"""The shipped base's VAE with further latent channels which its decoder does not read yet, as a state at step 0.

    python benchmarks/widen_vae.py STATE/autoencoder.safetensors
    dpd pretrain … --stage autoencoder --latent-channels 8 --state STATE

It gives the images of the shipped VAE exactly; the new channels begin at small random means with little noise.
"""

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from dpd_train.bases.base import load_base
from dpd_train.bases.nano import nano_vae
from dpd_train.compute.checkpoint import prefixed, save_state


def widened(old: AutoencoderKL, channels: int) -> AutoencoderKL:
    """`old` with latents of `channels`, its own first."""
    wide = nano_vae(old.config.sample_size, channels)
    a, b = old.state_dict(), wide.state_dict()
    weights = {name: value for name, value in a.items() if value.shape == b[name].shape}
    own = int(old.config.latent_channels)
    first, new = torch.arange(own), torch.arange(own, channels)
    moments = torch.cat([first, first + channels])  # where the means and log variances of the old channels stand
    for name in ("encoder.conv_out.weight", "encoder.conv_out.bias"):
        weights[name] = b[name].clone()
        weights[name][moments] = a[name]
    for layer, rows in (("quant_conv", moments), ("post_quant_conv", first)):
        weight, bias = (torch.zeros_like(b[f"{layer}.{kind}"]) for kind in ("weight", "bias"))
        weight[rows[:, None], rows[None]], bias[rows] = a[f"{layer}.weight"], a[f"{layer}.bias"]
        weight[new, new, 0, 0] = 1.0
        weights |= {f"{layer}.weight": weight, f"{layer}.bias": bias}
    weights["quant_conv.bias"][new + channels] = -4.0  # log variance
    weights["decoder.conv_in.weight"] = torch.zeros_like(b["decoder.conv_in.weight"])
    weights["decoder.conv_in.weight"][:, :own] = a["decoder.conv_in.weight"]
    wide.load_state_dict(weights)
    return wide.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("state", type=Path)
    parser.add_argument("--base", default="nano")
    parser.add_argument("--channels", type=int, default=8)
    args = parser.parse_args()
    torch.manual_seed(0)
    wide = widened(load_base(args.base).vae, args.channels)
    save_state(args.state, prefixed("vae", wide.state_dict()), {"step": 0, "steps": None, "fresh_since": 0})


if __name__ == "__main__":
    main()
