"""The training loop: a task gives its networks and its loss, and the loop owns what all trainings share.

That is the optimiser's step, the learning rate, the clipping of gradients, the state file, the deadline and the
progress. Each step has a random generator of its own, so that a resumed training continues with the numbers of an
uninterrupted one. A task that draws from another generator cannot be continued, and has no state file.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dpd_runtime.annotations import Progress
from dpd_train.compute import (
    NEVER,
    Deadline,
    TimeUp,
    load_state,
    on_cpu,
    prefixed,
    save_state,
    step_generator,
    without_prefix,
)

log = logging.getLogger(__name__)
CHECKPOINT_SECONDS = 60.0
Tensors = dict[str, torch.Tensor]
State = tuple[Tensors, dict[str, Any]]
"""What a state file holds: tensors, and values of JSON."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is trained, and how its loss is computed.

    Args:
        trained: the parameters that are updated, in the order in which the norm of their gradients is added up.
        optimizer: of these parameters.
        rate: step → learning rate, before a second warm-up.
        loss: (step, generator) → the loss of a step, or its parts one after another, whose gradients are added up. The
            generator is on the CPU and belongs to this step.
        modules: networks by the name under which the state file holds their weights.
        exchange: adds up the gradients of all processes, which it changes in place.
        after: called with the number of steps done when the weights have been updated.
        stopped: step → whether the training is to end before it.
        kept: gives what else the state file holds, or None in a process that writes none. It is called with the number
            of steps done.
        restore: gets it back from the state file of this name, before the networks get their weights. It may change the
            tensors.
        saved: called with the number of steps done when the state file has been written.
        warmup: steps of a second warm-up, after a state without the optimiser's moments.
        fp16: whether losses are scaled, as half precision needs.
        clip: largest norm of all gradients together; None does not clip them.
    """

    trained: Sequence[torch.Tensor]
    optimizer: torch.optim.Optimizer
    rate: Callable[[int], float]
    loss: Callable[[int, torch.Generator], torch.Tensor | Iterable[torch.Tensor]]
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    exchange: Callable[[], None] = lambda: None
    after: Callable[[int], None] = lambda done: None
    stopped: Callable[[int], bool] = lambda step: False
    kept: Callable[[int], State | None] = lambda done: ({}, {})
    restore: Callable[[Path, Tensors, dict[str, Any]], None] = lambda path, tensors, meta: None
    saved: Callable[[int], None] = lambda done: None
    warmup: int = 100
    fp16: bool = False
    clip: float | None = 1.0


def trapezium(steps: int, peak: float, warmup: int = 100, decay_from: float = 0.7) -> Callable[[int], float]:
    """The learning rate by step: a linear rise, a plateau, and over the last part a linear fall to zero."""

    def rate(step: int) -> float:
        if step < warmup:
            return peak * (step + 1) / warmup
        left = (steps - step) / max(1.0, steps * (1 - decay_from))
        return peak * min(1.0, left)

    return rate


def rewarmed(rate: float, step: int, fresh_since: int, warmup: int) -> float:
    """`rate` with a second warm-up if the optimiser's moments were lost at step `fresh_since`; 0: they were not."""
    return rate if fresh_since == 0 else rate * min(1.0, (step + 1 - fresh_since) / max(1, warmup))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def train(
    task: Task,
    steps: int,
    seed: int,
    progress: Progress = lambda step, steps: None,
    *,
    first: int = 0,
    state: Path | None = None,
    resume: bool | None = None,
    seconds: float | None = None,
    deadline: Deadline = NEVER,
) -> None:
    """Do the steps that are left.

    Args:
        steps: done at the end, with those of earlier sessions.
        seed: of the generator that each step gets.
        first: number of the first step, where no state is continued.
        state: file that is written every `seconds` (None: CHECKPOINT_SECONDS), after the last step, at an early end and
            when the deadline passes.
        resume: whether `state` is continued; None: if it exists.

    Raises:
        TimeUp: the deadline passed; the state is saved.
        ValueError: a deadline without a state file to stop at.
    """
    if deadline is not NEVER and state is None:
        raise ValueError("a deadline needs a state file to stop at")
    scaler = torch.amp.GradScaler(task.trained[0].device.type, enabled=task.fp16)
    start, fresh_since = first, 0
    if state is not None and (state.exists() if resume is None else resume):
        start, fresh_since = _restored(task, state, scaler)

    def save(done: int) -> None:
        if state is not None:
            _save(task, state, scaler, done, fresh_since)

    left = range(start, steps)
    for step in _checkpointed(left, save, CHECKPOINT_SECONDS if seconds is None else seconds, deadline, progress):
        if task.stopped(step):
            save(step)
            break
        set_learning_rate(task.optimizer, rewarmed(task.rate(step), step, fresh_since, task.warmup))
        task.optimizer.zero_grad()
        losses = task.loss(step, step_generator(seed, step))
        for loss in (losses,) if isinstance(losses, torch.Tensor) else losses:
            scaler.scale(loss).backward()
        task.exchange()
        scaler.unscale_(task.optimizer)
        if task.clip is not None:
            nn.utils.clip_grad_norm_(task.trained, task.clip)
        scaler.step(task.optimizer)
        scaler.update()
        task.after(step + 1)


def _checkpointed(
    steps: range,
    save: Callable[[int], None],
    seconds: float,
    deadline: Deadline,
    progress: Progress,
) -> Iterator[int]:
    """Yield the numbers of `steps` and save the state: every `seconds`, after the last step, and when time is up.

    Args:
        save: called with the number of steps done. progress: called with the steps done and the total.

    Raises:
        TimeUp: the deadline passed; the state is saved.
    """
    saved_at = time.monotonic()
    for step in steps:
        yield step
        last = step + 1 == steps.stop
        stopped = deadline.passed and not last
        if time.monotonic() - saved_at > seconds or last or stopped:
            save(step + 1)
            saved_at = time.monotonic()
        progress(step + 1, steps.stop)
        if stopped:
            raise TimeUp(step + 1, steps.stop)


def _restored(task: Task, state: Path, scaler: torch.amp.GradScaler) -> tuple[int, int]:
    """Read `state`. Returns its step, and the step at which the optimiser's moments were lost; 0: they were not."""
    tensors, meta = load_state(state)
    task.restore(state, tensors, meta)
    for name, module in task.modules.items():
        module.load_state_dict(without_prefix(name, tensors))
    moments, step = without_prefix("optimizer", tensors), int(meta["step"])
    restore_moments(task.optimizer, moments)
    if meta.get("scaler"):
        scaler.load_state_dict(meta["scaler"])
    log.info("%s: resumed at step %d%s", state.stem, step, "" if moments else ", with a fresh optimiser")
    return step, meta.get("fresh_since", 0) if moments else step


def restore_moments(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Give the optimiser the moments that a state file holds, `index.name`.

    They get the memory layout of their parameters, as the fused kernel needs.
    """
    state: dict[int, Tensors] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, slots in optimizer.state.items():
        for name, value in slots.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                slots[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)


def _save(task: Task, state: Path, scaler: torch.amp.GradScaler, done: int, fresh_since: int) -> None:
    if (kept := task.kept(done)) is None:
        return
    tensors, meta = dict(kept[0]), dict(kept[1])
    for name, module in task.modules.items():
        tensors |= prefixed(name, module.state_dict())
    tensors |= prefixed("optimizer", _optimizer_tensors(task.optimizer))
    meta |= {"step": done, "fresh_since": fresh_since, "scaler": scaler.state_dict()}
    save_state(state, on_cpu(tensors), meta)
    task.saved(done)


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """AdamW's moments as a flat dictionary `index.name`; hyper-parameters come from the config, not from here."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(value) for index, slots in state.items() for name, value in slots.items()
    }
