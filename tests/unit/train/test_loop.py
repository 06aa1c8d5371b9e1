"""The training loop: closed forms of what it does to weights, and what a state file brings back."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from dpd_train import loop
from dpd_train.compute import Deadline, TimeUp, load_state, save_state
from dpd_train.loop import Task, train, trapezium


class Weight(nn.Module):
    """One vector of two numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor([3.0, -4.0]))


def sgd(weight: Weight, rate: float = 0.5, **options: object) -> Task:
    """Half of the square of the vector, whose gradient is the vector."""
    task = Task(
        trained=[weight.value],
        modules={"weight": weight},
        optimizer=torch.optim.SGD([weight.value], lr=1.0),
        rate=lambda step: rate,
        loss=lambda step, generator: weight.value.square().sum() / 2,
        clip=None,
    )
    return replace(task, **options)  # type: ignore[arg-type]


def noisy(weight: Weight) -> Task:
    """Adam on a loss with random numbers: it has moments, and depends on the generator of each step."""

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        return (weight.value * torch.randn(2, generator=generator)).square().sum()

    return replace(sgd(weight), optimizer=torch.optim.AdamW([weight.value]), rate=trapezium(9, 0.1, 3), loss=loss)


def test_each_step_takes_the_rate_times_the_gradient_away() -> None:
    weight, rates = Weight(), [0.5, 0.25, 0.0]
    train(replace(sgd(weight), rate=rates.__getitem__), 3, 0)
    torch.testing.assert_close(weight.value.detach(), torch.tensor([3.0, -4.0]) * 0.5 * 0.75)


def test_gradients_are_clipped_to_their_common_norm() -> None:
    weight = Weight()
    train(sgd(weight, rate=1.0, clip=1.0), 1, 0)
    torch.testing.assert_close(weight.value.detach(), torch.tensor([3.0, -4.0]) * (1 - 1 / 5), atol=1e-5, rtol=0)


def test_parts_of_a_loss_count_together() -> None:
    weight, whole = Weight(), Weight()

    def parts(step: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
        for number in range(2):
            yield weight.value[number].square() / 2

    train(sgd(weight, loss=parts), 4, 0)
    train(sgd(whole), 4, 0)
    assert torch.equal(weight.value, whole.value)


def test_gradients_of_other_processes_are_added_before_the_step() -> None:
    weight = Weight()

    def exchange() -> None:
        assert weight.value.grad is not None
        weight.value.grad.mul_(2)

    train(sgd(weight, rate=0.25, exchange=exchange), 1, 0)
    torch.testing.assert_close(weight.value.detach(), torch.tensor([1.5, -2.0]))


def test_a_training_in_many_sessions_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    whole, cut, told = Weight(), Weight(), list[int]()
    train(noisy(whole), 9, 7)
    for session in range(1, 10):
        cut, ends = Weight(), nullcontext() if session == 9 else pytest.raises(TimeUp, match=f"step {session} of 9")
        with ends:
            train(noisy(cut), 9, 7, lambda step, steps: told.append(step), state=tmp_path / "s", deadline=Deadline(0))
    assert told == list(range(1, 10))
    assert torch.equal(whole.value, cut.value)
    other = Weight()
    train(noisy(other), 9, 8)
    assert not torch.equal(whole.value, other.value), "the seed decides"


def test_a_state_without_moments_is_warmed_up_again(tmp_path: Path) -> None:
    state, weight, rates = tmp_path / "s", Weight(), list[float]()
    save_state(state, {"weight.value": torch.tensor([1.0, 1.0])}, {"step": 4})
    task = sgd(weight, rate=0.5, warmup=4)
    train(replace(task, after=lambda done: rates.append(task.optimizer.param_groups[0]["lr"])), 9, 0, state=state)
    assert rates == [0.125, 0.25, 0.375, 0.5, 0.5]
    assert load_state(state)[1]["fresh_since"] == 4


def test_what_a_task_keeps_comes_back_before_its_weights(tmp_path: Path) -> None:
    state, seen = tmp_path / "s", list[object]()
    kept = ({"more": torch.ones(1)}, {"note": "here"})
    train(sgd(Weight(), kept=lambda done: ({**kept[0]}, {**kept[1], "done": done})), 2, 0, state=state)

    def restore(path: Path, tensors: dict[str, torch.Tensor], meta: dict[str, object]) -> None:
        seen.extend([path, tensors["more"].item(), meta["note"], meta["done"]])

    train(sgd(Weight(), restore=restore), 2, 0, state=state)
    assert seen == [state, 1.0, "here", 2]


def test_a_task_can_end_early_and_in_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 1e9)
    done = list[int]()
    train(sgd(Weight(), after=done.append, stopped=lambda step: step == 3), 9, 0, state=tmp_path / "s")
    assert done == [1, 2, 3]
    assert load_state(tmp_path / "s")[1]["step"] == 3
    train(sgd(Weight(), kept=lambda done: None), 2, 0, state=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_deadline_needs_a_place_to_stop_at() -> None:
    with pytest.raises(ValueError, match="a deadline needs a state file to stop at"):
        train(sgd(Weight()), 2, 0, deadline=Deadline(0))
