"""Codes that decode to a training image do not leave a run: they return to their start, or are dropped."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from dpd_train import stages as stage
from dpd_train.bases import Base, decode_in_parts, load_base
from dpd_train.context import MadePrototypes
from dpd_train.prototypes import ClassPrototypes
from dpd_train.scene_set import SceneSet
from tests.tiny import tiny_base

COUNT = 4


def codes(seed: int, base: Base) -> tuple[ClassPrototypes, Any]:
    """Codes of one class, and their images."""
    drawn = np.random.default_rng(seed).normal(0, 2, (COUNT, 4, 8, 8)).astype(np.float32)
    with torch.no_grad():
        return ClassPrototypes(drawn, (10,) * COUNT, np.repeat(np.arange(COUNT), 10)), decode_in_parts(base, drawn)


def made(base: Base, found: ClassPrototypes, starts: ClassPrototypes, images: Any, monkeypatch: Any) -> MadePrototypes:
    """What the stage makes of matched codes where `images` are among the training images."""
    many = np.random.default_rng(9).normal(0, 2, (60, 4, 8, 8)).astype(np.float32)
    with torch.no_grad():
        others = decode_in_parts(base, many)
    train = np.concatenate([images, others[:30]])
    parts = [
        SceneSet(("a",), part, np.zeros(len(part), np.int64), tuple(f"{name}{i}" for i in range(len(part))), ())
        for name, part in (("t", train), ("h", others[30:]))
    ]
    monkeypatch.setattr(stage, "matched_prototypes", lambda *given: ([found], [starts]))
    config = SimpleNamespace(prototypes="matched")
    data = SimpleNamespace(train=parts[0], held=parts[1])
    run = SimpleNamespace(config=config, data=data, device=torch.device("cpu"))
    return stage.make_prototypes(cast(Any, run), base, cast(Any, None), cast(Any, None), torch.zeros(1, 4, 8, 8), [])


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return load_base(str(tiny_base(tmp_path)))


def test_a_code_too_near_returns_to_its_start(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    (found, images), (starts, _) = codes(0, base), codes(1, base)
    result = made(base, found, starts, images[[2]], monkeypatch)
    assert result.too_near == 1
    (kept,) = result.of_class
    assert kept is not None
    wanted = found.latents.copy()
    wanted[2] = starts.latents[2]
    np.testing.assert_array_equal(kept.latents, wanted)


def test_one_whose_start_is_too_near_as_well_is_dropped(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    (found, images), (starts, begun) = codes(0, base), codes(1, base)
    result = made(base, found, starts, np.stack([images[2], begun[2]]), monkeypatch)
    assert result.too_near == 1
    (kept,) = result.of_class
    assert kept is not None
    np.testing.assert_array_equal(kept.latents, found.latents[[0, 1, 3]])
    np.testing.assert_array_equal(np.unique(kept.members), [-1, 0, 1, 2])


def test_codes_far_from_every_image_stay_as_they_are(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    (found, images), (starts, _) = codes(0, base), codes(1, base)
    result = made(base, found, starts, images[:0], monkeypatch)
    assert result.too_near == 0
    (kept,) = result.of_class
    assert kept is not None
    np.testing.assert_array_equal(kept.latents, found.latents)


def test_means_of_latents_are_measured_too(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a centre is a training image."""
    found, images = codes(0, base)
    monkeypatch.setattr(stage, "find_prototypes", lambda *given, **options: [found])
    config = SimpleNamespace(prototypes="centroid", ipc=COUNT, k_min=1, seed=0, prototype_noise=None)
    many, zeros = images[[0, 1, 1, 1]], np.zeros(4, np.int64)
    train = SceneSet(("a",), many, zeros, ("0", "1", "2", "3"), ())
    with torch.no_grad():
        others = decode_in_parts(base, np.random.default_rng(9).normal(0, 2, (30, 4, 8, 8)).astype(np.float32))
    held = SceneSet(("a",), others, np.zeros(30, np.int64), tuple(map(str, range(30))), ())
    run = SimpleNamespace(config=config, data=SimpleNamespace(train=train, held=held), device=torch.device("cpu"))
    latents = torch.zeros(4, 4, 8, 8)
    result = stage.make_prototypes(cast(Any, run), base, cast(Any, None), cast(Any, None), latents, [])
    (kept,) = result.of_class
    assert kept is not None
    assert result.too_near == 2
    np.testing.assert_array_equal(kept.latents, found.latents[2:])
