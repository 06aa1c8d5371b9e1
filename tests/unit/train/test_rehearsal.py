"""Trainings on a GPU, rehearsed without one: no operation mixes devices, the weights are the CPU's but for rounding."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dpd_eval.attacks import RECIPE, LabelledImages, students_of
from dpd_eval.extractors import own_extractor
from dpd_eval.recipe import load_recipe
from dpd_eval.students import train_and_test, train_student
from dpd_train import matching as statistics
from dpd_train.bases import load_base, nano_vae
from dpd_train.classifiers import ClassifierTraining, train_classifier
from dpd_train.denoiser import ConsistencyClassifier, DenoiserTraining, train_denoiser
from dpd_train.matching import Matching, Watcher, features_of, match_codes, measure, seeing
from dpd_train.networks import ResNet, ResNetConfig
from dpd_train.scene_set import SceneSet
from dpd_train.vae import AutoencoderTraining, train_autoencoder
from tests.pretended import DEVICE, MixedDevicesError, Rehearsal
from tests.tiny import SIDE, latent_data, tiny_base

Weights = dict[str, torch.Tensor]
Train = Callable[[torch.device, Path], Weights]
SHAPE = ResNetConfig(num_classes=2, widths=(8, 16), blocks=(1, 1))
LABELS = torch.arange(8) % 2


@pytest.fixture(autouse=True)
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are compared, and the pretended device has no autocast."""
    monkeypatch.setattr("dpd_train.compute.has_bfloat16", lambda device: False)


def pixels() -> torch.Tensor:
    """uint8 [8, SIDE, SIDE, 3]."""
    return torch.randint(0, 256, (8, SIDE, SIDE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def inputs() -> torch.Tensor:
    return pixels().permute(0, 3, 1, 2) / 127.5 - 1


def network(channels: int = 3) -> ResNet:
    torch.manual_seed(0)
    return ResNet(replace(SHAPE, in_channels=channels)).eval().requires_grad_(False)


def classifier(device: torch.device, folder: Path) -> Weights:
    training = ClassifierTraining(steps=3, validate_every=2, batch=4, colour_gain=0.1)
    held = (inputs(), LABELS)
    return dict(train_classifier(inputs(), LABELS, held, SHAPE, training, device=device).model.state_dict())


def autoencoder(device: torch.device, folder: Path) -> Weights:
    training = AutoencoderTraining(
        steps=3, batch=2, spectral_weight=1.0, latent_noise=0.1, appearance_weight=0.1, statistics_weight=0.1
    )
    torch.manual_seed(0)
    vae, images = nano_vae(SIDE), pixels()
    return dict(train_autoencoder(vae, images, images[:2], training, folder, [network()], device=device).state_dict())


def denoiser(device: torch.device, folder: Path, **changes: Any) -> Weights:
    """With every loss there is."""
    base = load_base(str(tiny_base(folder.parent)))
    training = DenoiserTraining(
        steps=3,
        batch=3,
        warmup=1,
        validate_every=2,
        direction_weight=0.2,
        decoder_weight=0.5,
        decoder_from=0.3,
        consistency_weight=0.1,
        **changes,
    )
    judge = ConsistencyClassifier(network(channels=4), torch.zeros(2))
    unet, text_encoder, _ = train_denoiser(
        *(base.unet, base.text_encoder, latent_data(), latent_data(), base.schedule, training, folder),
        vae=base.vae,
        classifier=judge,
        device=device,
    )
    return {**unet.state_dict(), **{f"text {name}": value for name, value in text_encoder.state_dict().items()}}


@pytest.fixture(autouse=True)
def few_views(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "VIEWS", 20)


def matching(device: torch.device, folder: Path) -> Weights:
    base = load_base(str(tiny_base(folder.parent)))
    seen = network().to(device)
    statistics = measure(features_of(seen), inputs(), LABELS, 2, 6, device)
    watchers = [Watcher(seeing(seen, logits=True), statistics)] * 4
    start = torch.randn((2, 2, 4, 8, 8), generator=torch.Generator().manual_seed(7))
    vae = base.vae.to(device).requires_grad_(False)
    codes = match_codes(start, lambda x: vae.decode(x).sample, watchers, Matching(steps=2), state=folder, device=device)
    return {"codes": codes}


def student(name: str) -> Train:
    recipe = replace(load_recipe("quick"), steps=3, warmup=1, batch=4, full_steps=0)

    def train(device: torch.device, folder: Path) -> Weights:
        return dict(train_student(name, pixels().numpy(), LABELS.numpy(), 2, recipe, 0, device=device).state_dict())

    return train


def student_with_test(device: torch.device, folder: Path) -> Weights:
    recipe = replace(load_recipe("quick"), steps=3, warmup=1, batch=4, full_steps=0)
    data = (pixels().numpy(), LABELS.numpy())
    confusion = train_and_test("convnet", data, data, 2, recipe, 0, device=str(device))
    return {"confusion": torch.from_numpy(confusion)}


def extractor(device: torch.device, folder: Path) -> Weights:
    scenes = SceneSet(("a", "b"), pixels().numpy(), LABELS.numpy(), (), ())
    own = own_extractor(scenes, folder, steps=3, device=str(device))
    return {"features": torch.from_numpy(own.features(scenes.images))}


def attacking_student(device: torch.device, folder: Path) -> Weights:
    recipe = replace(RECIPE, steps=3, batch=4, warmup=1)
    part = LabelledImages(pixels()[:2].numpy(), LABELS[:2].numpy())
    return dict(students_of(part, 2, recipe, str(device))[0].state_dict())


TRAININGS: dict[str, Train] = {
    "classifier": classifier,
    "autoencoder": autoencoder,
    "denoiser": denoiser,
    "denoiser, learned uncertainty": partial(denoiser, min_snr_gamma=None),
    "matching": matching,
    "student convnet": student("convnet"),
    "student vit-tiny": student("vit-tiny"),
    "student, tested": student_with_test,
    "extractor own": extractor,
    "student of an audit": attacking_student,
}


LONG = ("denoiser, learned uncertainty", "student of an audit")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.full] * (name in LONG)) for name in TRAININGS])
def test_a_training_stays_on_its_device_and_gives_the_cpus_weights(name: str, tmp_path: Path) -> None:
    expected = TRAININGS[name](torch.device("cpu"), tmp_path / "cpu")
    with Rehearsal() as rehearsal:
        found = TRAININGS[name](DEVICE, tmp_path / "there")
    assert rehearsal.operations > 100
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].device.type == "cpu", "what is trained comes back"
        torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-4)


def test_a_mixture_is_noticed() -> None:
    with Rehearsal():
        layer = nn.Linear(3, 2).to(DEVICE)
        assert layer(torch.ones(1, 3, device=DEVICE)).device == DEVICE
        with pytest.raises(MixedDevicesError, match=r"\[1, 3\] on the CPU beside"):
            layer(torch.ones(1, 3))
        weight = layer.weight.detach()
        assert float((weight * torch.tensor(2.0)).sum()) == pytest.approx(2 * float(weight.sum())), "a number may mix"
