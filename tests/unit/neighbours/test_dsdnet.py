"""The self-distilling student: its additional losses in training, and that only the backbone remains afterwards."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dpd_eval.arms import describe_student
from dpd_eval.networks import ConvNet
from dpd_eval.recipe import Recipe
from dpd_eval.students import build_student, count_multiply_adds, train_student
from dpd_neighbours.dsdnet import LEVELS, DsdNet, signal
from tests.unit.eval import test_students as students

LABELS = torch.tensor([0, 1, 2, 0])


def criterion(logits: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits, LABELS)


def student(name: str = "dsdnet:convnet") -> DsdNet:
    model = build_student(name, 3, 0)
    assert isinstance(model, DsdNet)
    return model.train()


def images() -> torch.Tensor:
    return torch.rand((4, 3, 64, 64), generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_all_signal_at_level_zero_and_none_at_the_last() -> None:
    alpha = signal(torch.tensor([0, LEVELS // 2, LEVELS]))
    torch.testing.assert_close(alpha, torch.tensor([1.0, 0.5, 0.0]))


@pytest.mark.parametrize("name", ["convnet", "resnet"])
def test_the_backbone_is_the_plain_student_of_that_seed(name: str) -> None:
    plain, model = build_student(name, 3, 5).eval(), build_student(f"dsdnet:{name}", 3, 5).eval()
    torch.testing.assert_close(model(images()), plain(images()))


def test_a_denoiser_that_knows_the_truth_leads_there() -> None:
    class Truth(nn.Module):
        def forward(self, noisy: torch.Tensor, condition: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
            return torch.full_like(noisy, 0.7)

    model = student()
    model.denoiser = Truth()  # type: ignore[assignment]
    found = model._cleaned(torch.randn(4, 128, 4, 4))
    torch.testing.assert_close(found, torch.full_like(found, 0.7))


@pytest.mark.parametrize("name", ["dsdnet:convnet", "dsdnet:resnet"])
def test_shallow_stages_learn_from_the_deepest_and_not_the_other_way(name: str) -> None:
    model = student(name)
    model(images())
    model.auxiliary_loss(criterion).backward()  # type: ignore[no-untyped-call]
    moved = [float(p.grad.abs().sum()) if p.grad is not None else 0.0 for p in model.backbone.parameters()]
    assert moved[0] > 0
    assert moved[-4:] == [0.0] * 4  # the last norm's two, the head's two
    branch = [*model.adapters.parameters(), *model.denoiser.parameters(), *model.heads.parameters()]
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in branch if p.ndim > 1)


@pytest.mark.parametrize(
    "name", ["dsdnet:convnet", "dsdnet:resnet", pytest.param("dsdnet:resnet18", marks=pytest.mark.full)]
)
def test_it_is_a_student_like_those_of_dpd_eval(name: str) -> None:
    students.test_weights_depend_on_the_seed_alone(name)
    students.test_every_student_learns_in_bfloat16(name)
    for size in (32, 90):
        students.test_students_take_any_size(name, size)


def test_results_give_the_backbones_cost() -> None:
    assert describe_student("dsdnet:resnet", 10, 64) == describe_student("resnet", 10, 64)


def test_it_takes_as_many_bands_as_its_backbone() -> None:
    model = build_student("dsdnet:convnet", 3, 0, 5)
    assert model(torch.zeros(2, 5, 64, 64)).shape == (2, 3)
    assert count_multiply_adds(model.at_inference(), 64, 64, 5) == count_multiply_adds(  # type: ignore[operator]
        build_student("convnet", 3, 0, 5), 64, 64, 5
    )


def test_nothing_but_the_backbone_is_left_after_training() -> None:
    recipe = Recipe(name="short", steps=3, batch=4, optimizer="adamw", peak_rate=1e-3)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    labels = np.array([0, 1, 2, 0, 1, 2])
    left = train_student("dsdnet:convnet", pixels, labels, 3, recipe, seed=0)
    plain = train_student("convnet", pixels, labels, 3, recipe, seed=0)
    assert isinstance(left, ConvNet)
    assert {k: v.shape for k, v in left.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}
    assert count_multiply_adds(left, 64, 64) == count_multiply_adds(plain, 64, 64)
    first = left.body[0][0].weight  # type: ignore[index,union-attr]
    assert not torch.equal(first, plain.body[0][0].weight)  # type: ignore[index,union-attr,arg-type]
