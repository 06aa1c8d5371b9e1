"""Students over groups of bands: each group's branch sees its bands alone, and learns from what all say."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dpd_cli.options import split_names
from dpd_eval.arms import describe_student
from dpd_eval.recipe import Recipe
from dpd_eval.students import build_student, predict, train_student
from dpd_neighbours.band_groups import BandGroups
from dpd_runtime.errors import InputError
from tests.unit.eval import test_students as students

BOTH = "groups:RGB=4,3,2;NIR=5"
LABELS = torch.tensor([0, 1, 2, 0])


def images(seed: int = 0) -> torch.Tensor:
    return torch.rand((4, 5, 32, 32), generator=torch.Generator().manual_seed(seed)) * 2 - 1


def criterion(logits: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits, LABELS)


def student(name: str = BOTH) -> BandGroups:
    model = build_student(name, 3, 0, 5)
    assert isinstance(model, BandGroups)
    return model


@pytest.mark.parametrize(("group", "seen"), [("RGB", (4, 3, 2)), ("NIR", (5,))])
def test_one_group_predicts_from_its_own_bands(group: str, seen: tuple[int, ...]) -> None:
    branch = student(f"{BOTH}@{group}").at_inference().eval()
    known = branch(images())
    for band in range(1, 6):
        changed = images()
        changed[:, band - 1] = 0.3
        assert torch.equal(branch(changed), known) == (band not in seen), band


def test_the_order_of_bands_is_the_one_that_is_given() -> None:
    here, there = (student(f"groups:A={bands}").eval() for bands in ("4,3,2", "2,3,4"))
    turned = images()
    turned[:, 1:4] = turned[:, 1:4].flip(1)
    torch.testing.assert_close(here(images()), there(turned))


def test_the_training_is_the_same_whatever_predicts_afterwards() -> None:
    recipe = Recipe(name="short", steps=3, batch=4, optimizer="adamw", peak_rate=1e-3)
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (6, 32, 32, 5), dtype=np.uint8), np.array([0, 1, 2, 0, 1, 2])
    whole, alone = (train_student(name, pixels, labels, 3, recipe, seed=0) for name in (BOTH, f"{BOTH}@NIR"))
    assert isinstance(whole, BandGroups)
    own = whole.branches[1].state_dict()
    assert own.keys() == alone.state_dict().keys()
    assert all(torch.equal(value, alone.state_dict()[name]) for name, value in own.items())
    assert not torch.equal(whole(images()), alone(images()))


def test_a_group_learns_labels_and_what_all_say_and_does_not_teach_them() -> None:
    model = student().train()
    model(images())
    found = model.auxiliary_loss(criterion)
    said = [logits.detach() for logits in model._said]
    together = F.softmax(model._together.detach() / 3, dim=1)
    wanted = 0.0
    for logits in said:
        wanted += float(criterion(logits)) / 2
        wanted += 0.5 * 9 / 2 * float((together * (together.log() - F.log_softmax(logits / 3, dim=1))).sum(1).mean())
    assert float(found.detach()) == pytest.approx(wanted, rel=1e-5)
    found.backward()  # type: ignore[no-untyped-call]
    assert model.together.weight.grad is None
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.branches.parameters() if p.ndim > 1)


def test_a_band_that_tells_the_class_tells_it_to_its_own_group() -> None:
    """The class is the brightness of band 5; the other bands are noise."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 32)
    pixels = rng.integers(0, 256, (64, 32, 32, 5), dtype=np.uint8)
    pixels[..., 4] = 60 + 120 * labels[:, None, None] + rng.integers(0, 20, (64, 32, 32))
    learned, unseen = slice(0, None, 2), slice(1, None, 2)
    recipe = Recipe(name="short", steps=40, batch=16, optimizer="adamw", peak_rate=3e-3)
    right = {}
    for group in ("RGB", "NIR"):
        model = train_student(f"{BOTH}@{group}", pixels[learned], labels[learned], 2, recipe, 0)
        right[group] = float((predict(model, pixels[unseen], "fp32") == labels[unseen]).mean())
    assert right["NIR"] == 1.0
    assert 0.2 < right["RGB"] < 0.8


def test_it_is_a_student_like_those_of_dpd_eval() -> None:
    name = "groups:A=1,2;B=3"
    students.test_weights_depend_on_the_seed_alone(name)
    students.test_every_student_learns_in_bfloat16(name)
    for size in (32, 90):
        students.test_students_take_any_size(name, size)
    assert describe_student(name, 10, 64).parameters > describe_student("convnet", 10, 64).parameters


def test_its_commas_are_not_those_between_students() -> None:
    assert split_names(f"convnet, {BOTH}@RGB,{BOTH}, resnet") == ("convnet", f"{BOTH}@RGB", BOTH, "resnet")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("groups:RGB=4,3,2;NIR=6", "no band 6: the images have 5"),
        ("groups:RGB=0,3,2", "no band 0"),
        ("groups:RGB=4,3,4", "band 4 stands there twice"),
        ("groups:RGB=4,3,2;NIR=4", "band 4 stands there twice"),
        ("groups:A=1;A=2", "group A stands there twice"),
        ("groups:A=1;B=2@C", "no group 'C' behind @; there are A, B"),
        ("groups:A", "give groups of bands such as groups:RGB=4,3,2;NIR=8"),
        ("groups:A=1,", "give groups of bands"),
        ("groups:", "no student 'groups:'"),
        ("groups", "give groups of bands"),
    ],
)
def test_groups_that_make_no_sense_are_refused(name: str, said: str) -> None:
    with pytest.raises(InputError) as refused:
        build_student(name, 3, 0, 5)
    assert said in str(refused.value)
