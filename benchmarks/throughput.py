"""Compare our training loop's steps per second with a bare PyTorch loop over the same networks and latents.

    python benchmarks/throughput.py --out throughput.json
    python benchmarks/throughput.py --device cuda --batch 256 --block 100

Bare: only text encoder, UNet, squared error of v, backward, AdamW. Ours: the loop of `dpd train` with its defaults
(augmentation, captions, min-SNR weights, clipping, two averages, norms in float32, channels last), and the loop of
`dpd pretrain` (also direction and decoder losses). Blocks of steps alternate between both. The ratio is the median over
pairs of blocks, by wall time and by CPU time, which other processes disturb less. Latents are random; validation and
checkpoints are not measured.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from result_file import tell
from torch.nn import functional as F

from dpd_train.bases.base import Base, load_base
from dpd_train.captions.captions import CaptionTable
from dpd_train.compute.device import autocast, hardware, use_device
from dpd_train.config import TrainConfig
from dpd_train.diffusion.denoiser import AUTOCAST, DenoiserTraining, LatentData, train_denoiser
from dpd_train.diffusion.fine_tune import denoiser_training
from dpd_train.pretrain.config import PretrainConfig

CLASSES, IMAGES = 10, 1000
Spent = tuple[float, float]
"""Wall seconds and CPU seconds."""


def random_data(base: Base) -> LatentData:
    """Random latents and token ids with the base's shapes."""
    generator = torch.Generator().manual_seed(0)
    side, words = base.unet.config.sample_size, base.text_encoder.config.max_position_embeddings
    shape = (IMAGES, base.unet.config.in_channels, side, side)

    def ids(*counts: int) -> torch.Tensor:
        return torch.randint(base.text_encoder.config.vocab_size, (*counts, words), generator=generator)

    captions = CaptionTable(ids(CLASSES), ids(2, IMAGES), ids())
    return LatentData(torch.randn(shape, generator=generator), torch.arange(IMAGES) % CLASSES, captions)


def bare_step(base: Base, data: LatentData, training: DenoiserTraining, device: torch.device) -> Callable[[], None]:
    """A minimal training step on copies of the base's networks."""
    unet, text_encoder = (
        copy.deepcopy(base.unet).train().to(device),
        copy.deepcopy(base.text_encoder).train().to(device),
    )
    parameters = [*unet.parameters(), *text_encoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=device.type == "cuda")
    latents, ids = data.latents.to(device), data.captions.described[0].to(device)
    alphas = torch.tensor(base.schedule.alphas_cumprod, device=device)

    def step() -> None:
        rows = torch.randint(len(latents), (training.batch,), device=device)
        timesteps = torch.randint(len(alphas), (training.batch,), device=device)
        clean, noise = latents[rows], torch.randn((training.batch, *latents.shape[1:]), device=device)
        alpha = alphas[timesteps].sqrt()[:, None, None, None]
        sigma = (1 - alphas[timesteps]).sqrt()[:, None, None, None]
        with autocast(device, AUTOCAST[training.precision], enabled=training.precision != "fp32"):
            context = text_encoder(ids[rows]).last_hidden_state
            output = unet(alpha * clean + sigma * noise, timesteps, context).sample
        loss = F.mse_loss(output.float(), alpha * noise - sigma * clean)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def beside(
    base: Base, data: LatentData, training: DenoiserTraining, device: torch.device, blocks: int, block: int
) -> dict[str, Any]:
    """Time `blocks` blocks of each loop after a warm-up block; ratio 1 means as fast as the bare loop."""
    bare = bare_step(base, data, training, device)
    spent: dict[str, list[Spent]] = {"bare": [], "ours": []}

    def now() -> Spent:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()

    begun = now()

    def progress(step: int, _steps: int) -> None:
        nonlocal begun
        if step % block or step > block * (blocks + 1):
            return
        ended = now()
        for _ in range(block):
            bare()
        done = now()
        spent["ours"].append((ended[0] - begun[0], ended[1] - begun[1]))
        spent["bare"].append((done[0] - ended[0], done[1] - ended[1]))
        begun = now()

    steps = block * (blocks + 1) + 1  # validation follows the last one
    training = replace(training, steps=steps, validate_every=steps, checkpoint_seconds=1e9, decoder_from=0.0)
    unet, text_encoder = copy.deepcopy(base.unet), copy.deepcopy(base.text_encoder)
    held = LatentData(data.latents[:8], data.labels[:8], data.captions)
    with TemporaryDirectory() as folder:
        state = Path(folder) / "state.safetensors"
        train_denoiser(
            unet, text_encoder, data, held, base.schedule, training, state, progress, vae=base.vae, device=device
        )
    measured = {name: values[1:] for name, values in spent.items()}
    rates = {name: block * blocks / sum(wall for wall, _ in values) for name, values in measured.items()}
    pairs = list(zip(measured["bare"], measured["ours"], strict=True))
    return {
        "batch": training.batch,
        "steps_per_second": rates,
        "ratio": statistics.median(plain[0] / own[0] for plain, own in pairs),
        "cpu_ratio": statistics.median(plain[1] / own[1] for plain, own in pairs),
        "blocks": measured,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="nano")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--batch", type=int, help="instead of the defaults of dpd train and dpd pretrain")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--block", type=int, default=20, help="steps per block")
    parser.add_argument("--only", choices=("fine_tuning", "pretraining"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = use_device(args.device)
    base = load_base(args.base)
    data = random_data(base)
    trainings = {
        "fine_tuning": denoiser_training(TrainConfig(base=args.base)),
        "pretraining": PretrainConfig().denoiser,
    }
    result: dict[str, Any] = {"base": args.base, "hardware": hardware(device), "torch": torch.__version__}
    for name, training in trainings.items():
        if args.only in (None, name):
            training = replace(training, batch=args.batch or training.batch)
            result[name] = beside(base, data, training, device, args.blocks, args.block)
    tell(result, args.out)


if __name__ == "__main__":
    main()
