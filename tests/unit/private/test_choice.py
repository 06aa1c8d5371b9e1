"""What follows a release: public images in the released colours, those that are chosen, and a decoder for them."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis  # type: ignore[import-untyped]

from dpd_export.classifier import export_classifier
from dpd_private import choice, decoder
from dpd_private.budget import Budget, moment_scale
from dpd_private.choice import Candidates, Discriminant, within
from dpd_private.classifier import ReleasedClassifier
from dpd_private.codes import PrivateInputs, private_codes
from dpd_private.limited_watchers import LimitedWatchers, limited_watchers, see_appearance
from dpd_private.public import drawn_images
from dpd_private.release import Release, release
from dpd_runtime.annotations import Images
from dpd_runtime.classifier import GRAPH_NAME, INPUT
from dpd_runtime.engines import Compilation, Provider
from dpd_runtime.errors import InputError
from dpd_runtime.sampling import to_uint8
from dpd_runtime.sessions import HERE
from dpd_train.bases import Base, load_base
from dpd_train.compute import step_generator
from dpd_train.matching import See, embed
from dpd_train.networks import ResNet
from dpd_train.prototypes import herded
from dpd_train.scene_set import to_float
from dpd_train.symmetry import ORDER, appearance, d4
from tests.tiny import tiny_base
from tests.unit.private.test_release import seeded
from tests.unit.train.test_matching import CLASSES, SIDE, network

CPU = torch.device("cpu")
NAMES = ("dark", "medium", "bright")


def textured(count: int, seed: int, shift: float, contrast: float) -> torch.Tensor:
    """Grey noise [count, 3, SIDE, SIDE] of one contrast around one brightness; channels differ a little."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(count, 1, SIDE, SIDE, generator=generator)
    own = torch.randn(count, 3, SIDE, SIDE, generator=generator)
    return (shift + contrast * (0.9 * common + 0.4 * own)).clamp(-1, 1)


@pytest.fixture(scope="module")
def public() -> torch.Tensor:
    """Of many brightnesses and contrasts."""
    parts = [textured(10, 50 + i, -0.5 + 0.25 * (i % 5), 0.05 + 0.02 * i) for i in range(10)]
    return torch.cat(parts)


@pytest.fixture(scope="module")
def private() -> tuple[torch.Tensor, torch.Tensor]:
    """Three classes: dark and smooth, medium, bright and rough. None is bright enough to be cut at white."""
    images = torch.cat([textured(60, label, 0.25 * (label - 1), 0.05 + 0.1 * label) for label in range(CLASSES)])
    return images, torch.arange(CLASSES).repeat_interleave(60)


@pytest.fixture(scope="module")
def networks() -> list[ResNet]:
    return [network(seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def watchers(public: torch.Tensor, networks: list[ResNet]) -> LimitedWatchers:
    return limited_watchers(networks, public, torch.arange(len(public)) % 5, 5, 24, 1)


@pytest.fixture(scope="module")
def found(watchers: LimitedWatchers, private: tuple[torch.Tensor, torch.Tensor]) -> Release:
    return release(watchers, *private, CLASSES, Budget(epsilon=math.inf), seeded(0))


@pytest.mark.parametrize("later", ["chosen.safetensors", "decoder.safetensors"])
def test_a_lost_release_is_said_before_anything_is_trained(
    later: str, tmp_path: Path, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpd_private.public.DRAWN", 1)
    (tmp_path / later).touch()
    inputs = PrivateInputs(
        private=lambda: pytest.fail("no second release"),
        counts=(9,),
        public=drawn_images(16, 0),
        base=base,
        folder=tmp_path,
    )
    with pytest.raises(InputError, match=r"release\.safetensors: is missing, and later stages have used it"):
        private_codes(inputs, Budget(epsilon=1.0), 2, 0, lambda title: pytest.fail(title), device=CPU)
    assert [path.name for path in tmp_path.iterdir()] == [later]


def test_candidates_have_the_colours_and_contrasts_of_their_class(
    found: Release, public: torch.Tensor, private: tuple[torch.Tensor, torch.Tensor]
) -> None:
    candidates, (images, labels) = Candidates(found, public), private
    for label in range(CLASSES):
        drawn, _ = candidates.draw(label, 100, step_generator(3, label))
        wanted = appearance(images[labels == label]).mean(0)
        away = (appearance(drawn).mean(0) - wanted).abs()
        before = (appearance(public).mean(0) - wanted).abs()
        assert float(away[:3].max()) < 0.1
        assert float(away[3:6].mean()) < 0.4 * float(before[3:6].mean()) + 0.1


def test_within_is_the_covariance_within_classes(
    watchers: LimitedWatchers, found: Release, private: tuple[torch.Tensor, torch.Tensor]
) -> None:
    images, labels = private
    views = watchers.of[-1].limit * watchers.parts(watchers.views(images))[-1]  # [8, n, F]
    away = [views[:, labels == label].flatten(0, 1) for label in range(CLASSES)]
    away = [z - z.mean(0) for z in away]
    wanted = torch.stack([z.T @ z / len(z) for z in away]).mean(0)
    torch.testing.assert_close(within(found.appearance, found), wanted, atol=1e-4, rtol=1e-3)


def test_a_discriminant_from_statistics_decides_as_one_from_the_images_does(
    found: Release, private: tuple[torch.Tensor, torch.Tensor]
) -> None:
    images, labels = private
    z = found.appearance.standard(see_appearance(images)[0]).double()
    reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=choice.RIDGE / (1 + choice.RIDGE))
    wanted = reference.fit(z.numpy(), labels.numpy()).predict(z.numpy())
    judged = choice.Discriminant(found.appearance, found)(z).argmax(1).numpy()
    assert np.mean(judged == wanted) > 0.97
    assert np.mean(judged == labels.numpy()) > 0.97


def test_a_release_whose_spread_was_lost_in_noise_has_a_discriminant(found: Release) -> None:
    """As dpd 0.2.0 could store one: the second moment is that of the means alone."""
    noisy = replace(found, noise=found.sensitivity)
    own = found.statistics[0]
    lost = replace(own, second_moment=own.second_moment - within(own, noisy).float())
    spread, means, limit = within(lost, noisy), own.class_means.double(), own.standard.limit
    assert limit is not None
    assert float(spread.abs().max()) < 1e-4 * float(own.second_moment.abs().max())
    of_moment = noisy.noise / moment_scale(min(noisy.counts), len(noisy.counts))
    ridge = choice.RIDGE * limit**2 * of_moment / len(spread) ** 0.5  # of one standard deviation of the noise's trace
    assert float(Discriminant(lost, noisy).directions.norm(dim=0).max()) < 1.1 * float(means.norm(dim=1).max()) / ridge


@pytest.mark.full
def test_the_classifier_is_the_mean_of_all_discriminants_and_views(
    found: Release,
    networks: list[ResNet],
    watchers: LimitedWatchers,
    private: tuple[torch.Tensor, torch.Tensor],
    tmp_path: Path,
) -> None:
    images, labels = private
    classifier = ReleasedClassifier(networks, found).eval()

    def seeing_in_float32(network: ResNet) -> See:  # as the classifier does; watchers see in bfloat16 if they can
        return lambda images: (embed(network.features(images)), None)

    sees = [*map(seeing_in_float32, networks), see_appearance]
    with torch.no_grad():
        scores = classifier(images)
        views = [d4(images, element) for element in range(ORDER)]
        own_watchers = [replace(watcher, see=see) for watcher, see in zip(watchers.of, sees, strict=True)]
        pairs = [*zip(own_watchers, found.statistics, strict=True)]
        each = [choice.Discriminant(own, found)(watcher.z(view)) for watcher, own in pairs for view in views]
    torch.testing.assert_close(scores, torch.stack(each).mean(0).float(), atol=1e-3, rtol=1e-3)
    assert float((scores.argmax(1) == labels).float().mean()) > 0.97
    export_classifier(classifier, to_uint8(images[:2].numpy()), NAMES, tmp_path)
    engine = HERE.load((tmp_path / GRAPH_NAME).read_bytes(), Provider("cpu", ""), 1, None, GRAPH_NAME, Compilation())
    again = engine.run(**{INPUT: images.numpy()})
    assert (again.argmax(1) == scores.argmax(1).numpy()).all()


def test_chosen_images_are_different_and_look_like_their_class(
    found: Release, public: torch.Tensor, networks: list[ResNet], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "LEAST", 100)
    monkeypatch.setattr(choice, "CALL", 30)

    def chosen() -> Images:
        return choice.chosen_images(networks, found, Candidates(found, public), 4, 7, lambda *_: None, device=CPU)

    images = chosen()
    assert images.shape == (CLASSES, 4, SIDE, SIDE, 3)
    flat = to_float(torch.from_numpy(np.concatenate(images)))
    assert len(torch.unique(flat.flatten(1), dim=0)) == 4 * CLASSES
    judged = choice.Discriminant(found.appearance, found)(found.appearance.standard(see_appearance(flat)[0]).double())
    assert judged.argmax(1).tolist() == [label for label in range(CLASSES) for _ in range(4)]
    np.testing.assert_array_equal(images, chosen())


def test_images_are_chosen_by_what_was_released(
    watchers: LimitedWatchers,
    public: torch.Tensor,
    private: tuple[torch.Tensor, torch.Tensor],
    networks: list[ResNet],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Classes in reverse order: with much budget the images turn with them; with little, as often one way as the other.

    One noise alone decides nothing: its images are almost black or white, and rounding decides which are chosen.
    """
    monkeypatch.setattr(choice, "LEAST", 100)
    images, labels = private

    def brightness(epsilon: float, labels: torch.Tensor, noise: int = 1) -> npt.NDArray[np.float64]:
        found = release(watchers, images, labels, CLASSES, Budget(epsilon=epsilon), seeded(noise))
        candidates = Candidates(found, public)
        chosen = choice.chosen_images(networks, found, candidates, 5, 7, lambda *_: None, device=CPU)
        return chosen.mean((1, 2, 3, 4)) / 127.5 - 1

    wanted, backwards = 0.25 * (np.arange(CLASSES) - 1), CLASSES - 1 - labels
    assert np.abs(brightness(1000.0, labels) - wanted).mean() < 0.1
    assert np.abs(brightness(1000.0, backwards) + wanted).mean() < 0.1
    turned = [brightness(0.01, labels, noise) - brightness(0.01, backwards, noise) for noise in range(4)]
    contrast = np.mean([change[-1] - change[0] for change in turned])
    assert abs(contrast) < 0.5  # with much budget: 1.0


def test_more_images_are_chosen_from_more_candidates(
    found: Release, public: torch.Tensor, networks: list[ResNet], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "LEAST", 100)
    candidates, drawn = Candidates(found, public), []
    draw = candidates.draw
    monkeypatch.setattr(candidates, "draw", lambda label, count, g: drawn.append(count) or draw(label, count, g))
    for count in (1, 4):
        choice.chosen_images(networks, found, candidates, count, 7, lambda *_: None, device=CPU)
    assert sum(drawn) == CLASSES * (100 + 4 * choice.CANDIDATES)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return load_base(str(tiny_base(tmp_path_factory.mktemp("base"))))


def test_the_decoder_learns_the_images_and_the_base_stays(
    found: Release,
    public: torch.Tensor,
    networks: list[ResNet],
    base: Base,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decoder, "STEPS", 60)
    monkeypatch.setattr(decoder, "RATE", 4e-3)
    candidates, before = Candidates(found, public), {k: v.clone() for k, v in base.vae.state_dict().items()}
    images = torch.cat([candidates.draw(label, 20, step_generator(90, label))[0] for label in range(CLASSES)])

    def tuned() -> Base:
        pixels, place = to_uint8(images.numpy()), tmp_path / "decoder"
        return decoder.tuned_base(base, pixels, networks, 3, place, lambda *_: None, device=CPU)

    def error(of: Base) -> float:
        with torch.no_grad():
            return float((of.vae.decode(of.vae.encode(images).latent_dist.mode()).sample - images).abs().mean())

    learned = tuned()
    assert error(learned) < 0.8 * error(base)
    assert all(torch.equal(value, before[name]) for name, value in base.vae.state_dict().items())
    again = tuned().vae.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in learned.vae.state_dict().items()), "read, not redone"


def test_herded_are_different_images_whose_mean_is_near_the_released_one() -> None:
    vectors = torch.randn((200, 4), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    mean = torch.tensor([0.5, 0.0, -0.5, 0.0], dtype=torch.float64)
    rows = herded(vectors.numpy(), mean.numpy(), 20)
    assert len(set(rows)) == 20
    for count in (5, 10, 20):
        assert float((vectors[rows[:count]].mean(0) - mean).norm()) < 0.25
