"""SwiMDiff's training against the same written out again: which keys are negatives, what follows, what is added up."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch import nn

from dpd_neighbours.swimdiff.config import SwimDiff
from dpd_neighbours.swimdiff.diffusion import FeatureDenoiser
from dpd_neighbours.swimdiff.training import _Projector, train_swimdiff
from dpd_neighbours.swimdiff.unlabelled import Unlabelled
from dpd_neighbours.swimdiff.views import random_views
from dpd_train.compute import epoch_rows, step_generator
from dpd_train.drawn_scenes import numbered_scene
from dpd_train.loop import trapezium
from dpd_train.networks import ResNetConfig
from tests.tiny import SIDE

SHAPE = ResNetConfig(num_classes=16, widths=(16, 32), blocks=(1, 1), dropout=0.0)


class ByHand:
    """The training written out again: a list of keys, one query at a time, diffusers' noise, plain averages."""

    def __init__(self, data: Unlabelled, training: SwimDiff) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            self.fast, self.denoiser = _Projector(SHAPE), FeatureDenoiser(SHAPE.widths[-1])
        self.slow = copy.deepcopy(self.fast)
        self.data, self.training = data, training
        parameters = [*self.fast.parameters(), *self.denoiser.parameters()]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in parameters if p.ndim > 1], "weight_decay": training.weight_decay},
                {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
            ]
        )
        self.memory: list[tuple[torch.Tensor, int]] = []
        self.scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")

    def unit(self, network: _Projector, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        maps = network.encoder.features(images)[-1]
        out = network.encoder.head(network.hidden(maps.mean(dim=(2, 3))).clamp_min(0))
        return out / out.norm(dim=1, keepdim=True), maps

    def contrast(self, queries: torch.Tensor, keys: torch.Tensor, scenes: list[int]) -> torch.Tensor:
        losses = []
        for query, key, scene in zip(queries, keys, scenes, strict=True):
            negatives = [old for old, place in self.memory if place != scene]
            scores = torch.stack([query @ other for other in (key, *negatives)]) / self.training.temperature
            losses.append(scores.logsumexp(dim=0) - scores[0])
        return torch.stack(losses).mean()

    def step(self, step: int) -> tuple[float, float]:
        """One update. Returns both terms of the loss."""
        training, generator = self.training, step_generator(self.training.seed, step)
        rows = epoch_rows(len(self.data.images), training.batch, None, training.seed, step).numpy()
        pixels = torch.from_numpy(self.data.images[rows]).permute(0, 3, 1, 2).float() / 127.5 - 1
        queried, keyed = (random_views(pixels, generator) for _ in range(2))
        noise = torch.randn(pixels.shape, generator=generator)
        timesteps = torch.randint(1000, (training.batch,), generator=generator)
        order = torch.randperm(training.batch, generator=generator).tolist()
        queries, maps = self.unit(self.fast, queried)
        keys = torch.zeros_like(queries)
        with torch.no_grad():
            for pair in (order[:2], order[2:]):  # two groups of a batch of four
                keys[pair], _ = self.unit(self.slow, keyed[pair])
        scenes = self.data.scenes[rows].tolist()
        contrast = self.contrast(queries, keys, scenes)
        noisy = self.scheduler.add_noise(queried, noise, timesteps)
        diffusion = (self.denoiser(noisy, timesteps, maps) - noise).square().mean()
        for group in self.optimizer.param_groups:
            group["lr"] = trapezium(training.steps, training.peak_rate)(step)
        self.optimizer.zero_grad()
        loss = training.contrast_weight * contrast + training.diffusion_weight * diffusion
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([p for group in self.optimizer.param_groups for p in group["params"]], 1.0)
        self.optimizer.step()
        with torch.no_grad():
            for old, new in zip(self.slow.parameters(), self.fast.parameters(), strict=True):
                old.copy_(training.momentum * old + (1 - training.momentum) * new)
        self.memory = [*self.memory, *zip(keys, scenes, strict=True)][-training.queue :]
        return float(contrast.detach()), float(diffusion.detach())


def test_a_training_is_the_one_written_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenes of two images, a queue that overflows, a momentum that matters after a step."""
    monkeypatch.setattr("dpd_neighbours.swimdiff.training.AVERAGED", 1)
    images = np.stack([numbered_scene(label, number, 0, SIDE) for label in range(6) for number in range(2)])
    data = Unlabelled(images, np.arange(12) // 2, None, {})
    training = SwimDiff(
        steps=6,
        batch=4,
        queue=10,
        momentum=0.6,
        temperature=0.3,
        peak_rate=0.02,
        contrast_weight=0.7,
        diffusion_weight=1.5,
        weight_decay=0.05,
        bfloat16=False,
    )
    by_hand = ByHand(data, training)
    expected = np.array([by_hand.step(step) for step in range(training.steps)])

    def difference(**changes: Any) -> float:
        network, lines = train_swimdiff(data, replace(training, **changes), shape=SHAPE)
        found = np.array([[line["contrast"], line["diffusion"]] for line in lines])
        theirs = by_hand.fast.encoder.state_dict()
        weights = [float((value - theirs[name]).abs().max()) for name, value in network.state_dict().items()]
        return max(float(np.abs(found - expected).max()), *weights)

    assert difference() < 2e-3
    for changes in ({"momentum": 0.7}, {"same_scene_negatives": True}, {"queue": 12}, {"temperature": 0.45}):
        assert difference(**changes) > 1e-2, changes  # controls
