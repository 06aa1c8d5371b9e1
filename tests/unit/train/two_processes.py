"""What each process of tests/unit/train/test_distributed.py does, all of it in one launch. Not a test itself.

torchrun --nproc_per_node 2 two_processes.py FOLDER, which holds scenes/ and config.json
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dpd_neighbours.rs_dgc import RsDgc, rs_dgc_hook
from dpd_runtime.errors import InputError
from dpd_train.config import TrainConfig
from dpd_train.distributed import Team, joined
from dpd_train.train import train


def refusal(*arguments: Any, **options: Any) -> str | None:
    """What was raised in this process."""
    try:
        train(*arguments, **options)
    except InputError as error:
        return str(error)
    return None


def hooked(team: Team) -> dict[str, float]:
    """Five gradients of a fixed model by DistributedDataParallel, plain and compressed, added up.

    away: largest difference of the sums, with what all processes have kept back; without: without that.
    """
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 4))
    model = model.to(memory_format=torch.channels_last)  # what is kept has the weight's order all the same
    state, sums = RsDgc(20), []
    for compressed in (False, True):
        wrapped = torch.nn.parallel.DistributedDataParallel(model)
        if compressed:
            wrapped.register_comm_hook(state, rs_dgc_hook)
        total = [torch.zeros_like(p) for p in model.parameters()]
        for step in range(5):
            images = torch.randn((4, 3, 8, 8), generator=torch.Generator().manual_seed(10 * step + team.rank))
            model.zero_grad()
            wrapped(images).square().mean().backward()
            for own, p in zip(total, model.parameters(), strict=True):
                assert p.grad is not None
                own += p.grad
        sums.append(total)
    kept = [state.residual(id(p)).view(p.shape).clone() for p in model.parameters()]
    team.add_up(kept)
    pairs = list(zip(*sums, kept, strict=True))
    return {
        "away": max(float((plain - sent - k / team.size).abs().max()) for plain, sent, k in pairs),
        "without": max(float((plain - sent).abs().max()) for plain, sent, _ in pairs),
        "times_fewer": state.dense_bytes / state.sent_bytes,
    }


def sessions(folder: Path, config: TrainConfig, team: Team) -> list[list[Any]]:
    """Where the sessions of no time at all stopped, as the leader knows it."""
    stops: list[list[Any]] = []
    while True:
        out, cache = folder / "sessions", folder / "cache"
        record = train(folder / "scenes", out, config, cache=cache, resume=True, max_minutes=0, team=team)
        if "unfinished" in record:
            stops.append([record["unfinished"]["stage"], record["unfinished"]["step"]])
        if team.agree("unfinished" not in record):
            return stops


def main() -> None:
    folder = Path(sys.argv[1])
    config = TrainConfig(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
    scenes, few = folder / "scenes", replace(config, batch=1, micro_batch=1)
    with joined(torch.device("cpu")) as team:
        common: dict[str, Any] = {"cache": folder / "cache", "team": team}
        said: dict[str, Any] = {"size": team.size, "share": list(team.share(config.batch))}
        said["missing"] = refusal(folder / "missing", folder / "refused", config, **common)
        said["few"] = refusal(scenes, folder / "refused", few, **common)
        said["whole"] = "metrics" in train(scenes, folder / "whole", config, **common)
        said["adapters"] = "metrics" in train(scenes, folder / "adapters", replace(config, tune="lora"), **common)
        squeezed = replace(config, grad_compression="rs-dgc:20")
        said["squeezed"] = "metrics" in train(scenes, folder / "squeezed", squeezed, **common)
        said["hook"] = hooked(team)
        short = replace(config, perceptual_steps=1, teacher_steps=1, steps=2, judge_on="latents")
        said["stops"] = sessions(folder, short, team)
    (folder / f"said{team.rank}.json").write_text(json.dumps(said), encoding="utf-8")


if __name__ == "__main__":
    main()
