"""Resumable training: state as safetensors + JSON, without pickle, and random numbers that depend on the step alone."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from dpd_runtime.files import open_atomically


def save_state(path: Path, tensors: dict[str, torch.Tensor], meta: dict[str, Any]) -> None:
    """Write `tensors` and `meta` to one file, as `open_atomically` does: a kill leaves the previous file intact."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    with open_atomically(path) as file:  # whose name is random; the bytes of a large state do not fit into memory twice
        save_file(content, file.name, {"meta": json.dumps(meta, allow_nan=False)})


def load_state(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what `save_state` wrote."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        meta: dict[str, Any] = json.loads(file.metadata()["meta"])
    return tensors, meta


def prefixed(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors under the names `prefix.name`."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Those of the tensors whose names begin with `prefix`, under their names without it."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(prefix + ".")}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """AdamW's moments as a flat dictionary `index.name`; hyper-parameters come from the config, not from here."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(value) for index, slots in state.items() for name, value in slots.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Give the optimiser the moments that `optimizer_tensors` returned."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def step_generator(seed: int, step: int) -> torch.Generator:
    """The random generator of one training step: a resumed run gets the numbers of an uninterrupted one."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)


def draw_rows(count: int, batch: int, weights: torch.Tensor | None, generator: torch.Generator) -> torch.Tensor:
    """Random rows of a batch, [batch] int64 in 0 … count − 1, with repetition, on the CPU.

    weights: [count], how often each row is taken, up to a common factor; None: all equally often.
    """
    if weights is None:
        return torch.randint(count, (batch,), generator=generator)
    if len(weights) != count:
        raise ValueError(f"{len(weights)} weights for {count} rows")
    return torch.multinomial(weights, batch, replacement=True, generator=generator)


def epoch_rows(count: int, batch: int, weights: torch.Tensor | None, seed: int, step: int) -> torch.Tensor:
    """The rows of batch number `step`, [batch] int64 in 0 … count − 1, where batches go through epochs one by one.

    An epoch is `count` rows in random order. Without weights every row is in it once, so that a row comes again only
    after all others. With weights a row that is to come w times on average is in it ⌊w⌋ or ⌈w⌉ times. A batch may end
    one epoch and begin the next.

    Args:
        weights: as in `draw_rows`. step: from 0. The rows depend on the arguments alone.
    """
    if weights is not None and len(weights) != count:
        raise ValueError(f"{len(weights)} weights for {count} rows")
    first, last = step * batch, (step + 1) * batch
    epochs = range(first // count, -(-last // count))
    rows = torch.cat([_epoch(count, weights, step_generator(seed, -1 - epoch)) for epoch in epochs])
    return rows[first - epochs.start * count :][:batch]


def _epoch(count: int, weights: torch.Tensor | None, generator: torch.Generator) -> torch.Tensor:
    """One epoch [count]. Weighted rows are a systematic sample: where a comb with one random shift meets the sums."""
    order = torch.randperm(count, generator=generator)
    if weights is None:
        return order
    ends = weights.double().cumsum(0)
    comb = (torch.arange(count) + torch.rand((), generator=generator, dtype=torch.float64)) / count
    return torch.searchsorted(ends / ends[-1], comb, right=True).clamp_max(count - 1)[order]
