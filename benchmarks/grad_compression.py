"""Train the teacher in several processes with plain DDP, the RS-DGC hook, and PyTorch's PowerSGD hook.

    torchrun --standalone --nproc_per_node 2 benchmarks/grad_compression.py eurosat/train --val-per-class 100

All use the same images, shape, global batch, learning rate and number of steps, with one training per seed and hook.
Bytes are what one process sends: four per value for dense gradients, what RS-DGC sends, and four per value of
PowerSGD's factors. Adam's second moment averages over a hundred steps, as in the denoiser's training; PyTorch's default
of a thousand mistakes gradients that arrive in one piece for noise. Accuracy is measured on the validation part.
Agreement is with plain DDP's network of the same seed.
"""

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from result_file import tell
from torch import distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook as power_sgd
from torch.nn import functional as F

from dpd_eval.statistics import paired_difference
from dpd_train.classifiers.network import ResNet, learning_rate, predict, set_learning_rate, teacher_shape
from dpd_train.classifiers.training import ClassifierTraining, Labelled, labelled
from dpd_train.compute.checkpoint import step_generator
from dpd_train.compute.device import autocast, hardware
from dpd_train.compute.distributed import Team
from dpd_train.compute.rs_dgc import RsDgc, rs_dgc_hook
from dpd_train.images import read_scenes
from dpd_train.images.symmetry import ORDER, d4_each

Runs = dict[str, list[dict[str, Any]]]
EVERY = 100  # steps between two points of the loss curve
BETAS = (0.9, 0.99)


def trained(
    name: str, team: Team, data: Labelled, classes: int, steps: int, seed: int, ratio: float
) -> tuple[ResNet, dict[str, Any]]:
    """Train the teacher as `train_classifier` does, with the batch split; return it with its loss curve and bytes."""
    training = ClassifierTraining(steps=steps, seed=seed)
    torch.manual_seed(seed)
    model = ResNet(teacher_shape(classes)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    wrapped = nn.parallel.DistributedDataParallel(model)
    compressor = RsDgc(ratio)
    factors = power_sgd.PowerSGDState(None, matrix_approximation_rank=1, start_powerSGD_iter=2)
    if name == "rs-dgc":
        wrapped.register_comm_hook(compressor, rs_dgc_hook)
    elif name == "PowerSGD, rank 1":
        wrapped.register_comm_hook(factors, power_sgd.powerSGD_hook)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=training.weight_decay, betas=BETAS)
    images, labels = data
    curve, recent, begun = [], 0.0, time.perf_counter()
    for step in range(steps):
        generator = step_generator(seed, step)
        rows = torch.randint(len(images), (training.batch,), generator=generator)
        elements = torch.randint(ORDER, (training.batch,), generator=generator)
        own = slice(team.share(training.batch).start, team.share(training.batch).stop)
        set_learning_rate(optimizer, learning_rate(step, steps, training.peak_rate))
        with autocast("cpu"):
            logits = wrapped(d4_each(images[rows[own]], elements[own]).contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits.float(), labels[rows[own]], label_smoothing=training.label_smoothing)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent += float(loss.detach()) / EVERY
        if (step + 1) % EVERY == 0:
            curve.append(round(recent, 4))
            recent = 0.0
    sent = {
        "plain": float(4 * steps * sum(p.numel() for p in model.parameters())),
        "rs-dgc": float(compressor.sent_bytes),
        "PowerSGD, rank 1": 4.0 * factors.compression_stats()[2],
    }[name]
    found = {"loss": curve, "megabytes": round(sent / 1e6, 3), "seconds": round(time.perf_counter() - begun, 1)}
    return model.eval(), found


def against_plain(runs: Runs) -> dict[str, Any]:
    """Paired differences of accuracy by seed, and the ratio of bytes."""
    plain = runs["plain"]
    return {
        name: asdict(paired_difference([run["accuracy"] for run in found], [run["accuracy"] for run in plain]))
        | {"times_fewer_bytes": round(plain[0]["megabytes"] / found[0]["megabytes"], 1)}
        for name, found in runs.items()
        if name != "plain"
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--val-per-class", type=int)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--ratio", type=float, default=50)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--hooks", default="plain:rs-dgc:PowerSGD, rank 1", help="separated by colons, plain first")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    team = Team(distributed.get_rank(), distributed.get_world_size())
    options: dict[str, Any] = {"resolution": args.resolution, "val_per_class": args.val_per_class, "split": "names"}
    train, held = (read_scenes(args.data, part=part, **options) for part in ("train", "val"))  # type: ignore[arg-type]
    data, (images, labels) = labelled(train), labelled(held)
    runs: Runs = {name: [] for name in args.hooks.split(":")}
    for seed in range(args.seeds):
        first: torch.Tensor | None = None
        for name, found in runs.items():
            model, figures = trained(name, team, data, len(train.classes), args.steps, seed, args.ratio)
            said = predict(model, images).argmax(1)
            first = said if first is None else first
            figures |= {
                "accuracy": round(float((said == labels).float().mean()), 4),
                "agreement_with_plain": round(float((said == first).float().mean()), 4),
            }
            found.append(figures)
            if team.leads:
                print(name, seed, figures["accuracy"], figures["megabytes"], figures["seconds"], flush=True)
        if team.leads:
            settings = {"processes": team.size, "batch": ClassifierTraining.batch, "betas": BETAS}
            settings |= {name: getattr(args, name) for name in ("steps", "ratio", "resolution", "val_per_class")}
            result: dict[str, Any] = {"hardware": hardware(torch.device("cpu")), "torch": torch.__version__} | settings
            tell(result | {"against_plain": against_plain(runs), "runs": runs}, args.out)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
