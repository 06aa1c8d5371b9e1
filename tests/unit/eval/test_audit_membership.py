"""Membership statistics, compared with scikit-learn and closed forms; scores of exactly known denoisers."""

from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from dpd_eval import nearness
from dpd_eval.attacks import (
    AUC_FAIL,
    AUC_HARMLESS,
    FALSE_POSITIVES,
    TPR_FAIL,
    Query,
    Scores,
    area_under_curve,
    classifier_scores,
    denoiser_scores,
    membership_tests,
    pia_score,
    prototype_score,
    reconstruction_score,
    secmi_score,
    true_positive_rate,
)
from dpd_eval.nearness import MARGIN
from dpd_eval.verdict import FEWEST_IMAGES
from dpd_runtime.solvers import Schedule, schedule_from_config
from dpd_train.symmetry import NEAR

COSINE = {"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2"}
numbers = st.lists(st.integers(0, 12), min_size=1, max_size=60)


@given(numbers, numbers)
@settings(max_examples=60, deadline=None)
def test_area_and_rate_are_scikit_learns(first: list[int], second: list[int]) -> None:
    """Few different values, to test ties."""
    members, others = np.array(first, float), np.array(second, float)
    truth, scores = np.r_[np.ones(len(first)), np.zeros(len(second))], np.r_[members, others]
    assert area_under_curve(members, others) == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    for allowed in (0.01, 0.1, 0.5):
        assert true_positive_rate(members, others, allowed) == pytest.approx(true[false <= allowed + 1e-12].max())


@pytest.mark.parametrize(("shift", "verdict"), [(0.0, "PASS"), (0.25, "WARN"), (1.0, "FAIL")])
def test_two_gaussians(shift: float, verdict: str) -> None:
    """AUC = Φ(d / √2), TPR at 1 % = 1 − Φ(z₀.₉₉ − d)."""
    rng, normal = np.random.default_rng(0), NormalDist()
    scores = Scores(rng.normal(shift, 1, 4000), rng.normal(0, 1, 4000))
    area, rate = membership_tests("network", {"score": scores})
    assert area.value == pytest.approx(normal.cdf(shift / 2**0.5), abs=0.015)
    assert rate.value == pytest.approx(1 - normal.cdf(normal.inv_cdf(0.99) - shift), abs=0.02)
    assert area.verdict == verdict
    assert rate.verdict == ("FAIL" if shift == 1 else "PASS")


@pytest.mark.full
def test_the_interval_of_the_area_holds_the_truth() -> None:
    rng, truth = np.random.default_rng(1), NormalDist().cdf(0.5 / 2**0.5)
    held = 0
    for seed in range(60):
        drawn = Scores(rng.normal(0.5, 1, 150), rng.normal(0, 1, 150))
        area, _ = membership_tests("x", {"s": drawn}, seed=seed)
        assert area.interval is not None
        held += area.interval[0] <= truth <= area.interval[1]
    assert held >= 52


def test_the_limits_are_those_of_the_page() -> None:
    page = " ".join((Path(__file__).parents[3] / "docs/reference/privacy.md").read_text(encoding="utf-8").split())
    assert f"An AUC passes below {AUC_HARMLESS} and fails above {AUC_FAIL:.2f}" in page
    assert f"| AUC {AUC_HARMLESS} and {AUC_FAIL:.2f}; TPR at " in page
    assert f"; TPR at {100 * FALSE_POSITIVES:.0f} % FPR {100 * TPR_FAIL:.0f} % |" in page
    assert f"minus H2's share | {100 * nearness.LIMIT:.0f} points |" in page
    assert f"| {100 * MARGIN:.0f} points above the share that H2 has itself |" in page
    assert f"with a structure cosine above {NEAR} to an image of T" in page
    assert (
        f"if its AUC is above {nearness.MEMBERSHIP_LIMIT} and above what {nearness.PERMUTATIONS:,} permutations" in page
    )
    assert nearness.CHANCE == 1 / 1000, "once in a thousand"
    assert f"fewer than {100 * nearness.LEAST_SHARE:.0f} % are nearer to T than to H1" in page
    assert f"with fewer than {FEWEST_IMAGES} tested images" in page


def test_one_per_cent_of_few_is_not_measured() -> None:
    _, rate = membership_tests("x", {"s": Scores(np.arange(50.0), np.arange(50.0))})
    assert rate.verdict == "NOT RUN"


def schedule(kind: str) -> Schedule:
    return schedule_from_config({**COSINE, "prediction_type": kind})


def by_heart(known: np.ndarray, asked: Schedule, kind: str):  # type: ignore[no-untyped-def,type-arg]
    """The exact denoiser of a training set of a few latents: ẑ0 is their mean, weighted by distance."""

    def denoise(latents, timestep, prompts):  # type: ignore[no-untyped-def]
        alpha, sigma = asked.alpha_sigma(timestep)
        flat, targets = latents.reshape(len(latents), -1), known.reshape(len(known), -1)
        logs = -np.square(flat[:, None] - alpha * targets[None]).sum(axis=2) / (2 * sigma**2)
        weights = np.exp(logs - logs.max(axis=1, keepdims=True))
        original = ((weights / weights.sum(axis=1, keepdims=True)) @ targets).reshape(latents.shape)
        noise = (latents - alpha * original) / sigma
        given = {"epsilon": noise, "v_prediction": alpha * noise - sigma * original, "sample": original}
        return given[kind].astype(np.float32)

    return denoise


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_denoiser_that_knows_images_by_heart_gives_them_away(kind: str) -> None:
    rng, asked = np.random.default_rng(0), schedule(kind)
    known, others = (rng.normal(size=(n, 4, 4, 4)).astype(np.float32) for n in (20, 40))
    denoise = by_heart(known, asked, kind)
    scores = [denoiser_scores(denoise, asked, x, np.zeros((len(x), 1, 1), np.float32)) for x in (known, others)]
    for name in ("loss", "PIA", "SecMI"):
        assert area_under_curve(scores[0][name], scores[1][name]) > 0.95, name
    assert scores[0]["loss"] == pytest.approx(np.zeros(20), abs=1e-3), "it names the noise exactly"


def test_the_scores_are_their_papers_formulas() -> None:
    """With any function for a denoiser, written out for diffusers' schedule; four wrong formulas are told apart."""
    abar = DDPMScheduler(**COSINE).alphas_cumprod.double().numpy()
    latents = np.random.default_rng(0).normal(size=(5, 2, 4, 4))

    def noise(z: np.ndarray, t: int) -> np.ndarray:  # type: ignore[type-arg]
        return np.sin((1 + t / 300) * z + 0.3)  # type: ignore[no-any-return]

    def mixed(z0: np.ndarray, eps: np.ndarray, t: int) -> np.ndarray:  # type: ignore[type-arg]
        return np.sqrt(abar[t]) * z0 + np.sqrt(1 - abar[t]) * eps  # type: ignore[no-any-return]

    def step(z: np.ndarray, t: int, end: int) -> np.ndarray:  # type: ignore[type-arg]
        eps = noise(z, t)
        return mixed((z - np.sqrt(1 - abar[t]) * eps) / np.sqrt(abar[t]), eps, end)

    def pia(eps: np.ndarray, z_t: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        return -(((noise(z_t, 200) - eps) ** 4).mean((1, 2, 3)) ** 0.25)  # type: ignore[no-any-return]

    def secmi(z: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        return -((step(step(z, 100, 110), 110, 100) - z) ** 2).mean((1, 2, 3))  # type: ignore[no-any-return]

    first, path = noise(latents, 0), latents
    for t in range(0, 100, 10):
        path = step(path, t, t + 10)
    query = Query(
        lambda x, t, c: noise(x, t).astype(np.float32),
        schedule("epsilon"),
        latents.astype(np.float32),
        np.zeros((5, 1, 1), np.float32),
    )
    assert pia_score(query) == pytest.approx(pia(first, mixed(latents, first, 200)), rel=1e-4)
    assert secmi_score(query) == pytest.approx(secmi(path), rel=1e-3)
    swapped = np.sqrt(1 - abar[200]) * latents + np.sqrt(abar[200]) * first
    for wrong in (pia(noise(latents, 200), mixed(latents, first, 200)), pia(first, swapped)):
        assert pia_score(query) != pytest.approx(wrong, rel=1e-2)
    z0 = -((step(step(path, 100, 110), 110, 100) - latents) ** 2).mean((1, 2, 3))
    for wrong in (secmi(latents), z0):
        assert secmi_score(query) != pytest.approx(wrong, rel=1e-2)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_noise_is_noise_whatever_is_predicted(kind: str) -> None:
    """A Gaussian's exact denoiser: ε̂ = σ z_t for unit variance."""
    asked = schedule(kind)
    latents = np.random.default_rng(0).normal(size=(3, 2, 4, 4)).astype(np.float32)
    alpha, sigma = asked.alpha_sigma(300)
    output = {"epsilon": sigma * latents, "v_prediction": 0 * latents, "sample": alpha * latents}[kind]
    questions = Query(lambda x, t, c: output.astype(np.float32), asked, latents, np.zeros((3, 1, 1), np.float32))
    assert questions.noise(latents, 300) == pytest.approx(sigma * latents, abs=1e-5)


def test_a_step_there_and_back_is_the_identity_for_a_fixed_noise() -> None:
    asked = schedule("epsilon")
    latents = np.random.default_rng(0).normal(size=(3, 2, 4, 4)).astype(np.float32)
    fixed = np.ones_like(latents)
    questions = Query(lambda x, t, c: fixed, asked, latents, np.zeros((3, 1, 1), np.float32))
    assert questions.moved(questions.moved(latents, 10, 200), 200, 10) == pytest.approx(latents, abs=1e-5)


def test_scores_of_classifiers_and_reconstructions() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], np.float32)) + 5
    found = classifier_scores(logits, np.array([0, 1]))
    assert found["confidence"] == pytest.approx([0.7, 0.8], abs=1e-6)
    assert found["loss"] == pytest.approx(np.log([0.7, 0.1]), abs=1e-5)
    images = np.zeros((2, 4, 4, 3), np.uint8)
    assert reconstruction_score(images, images + np.array([3, 5], np.uint8)[:, None, None, None]).tolist() == [-9, -25]


def test_a_mean_correlates_with_its_members() -> None:
    """A mean correlates with each of its n members by 1/√n and not with others; a medoid equals its image."""
    rng = np.random.default_rng(0)
    members, others = (rng.normal(size=(50, 8, 32, 32)).astype(np.float32) for _ in range(2))
    labels, means = np.repeat([0, 1], 25), np.stack([members[:25].mean(axis=0), members[25:].mean(axis=0)])
    owners = np.array([0, 1])
    found = [prototype_score(x, labels, means, owners) for x in (members, others)]
    assert found[0] == pytest.approx(np.full(50, 0.2), abs=0.05)
    assert found[1] == pytest.approx(np.zeros(50), abs=0.05)
    assert prototype_score(members, labels, members[:1], np.zeros(1, int)).max() == pytest.approx(1, abs=1e-5)
