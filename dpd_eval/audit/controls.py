"""Controls: cases with a known verdict. An audit that gets one of them wrong fails (METHOD §9)."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dpd_eval.audit.comparison import COPIES, Yardstick, turned
from dpd_eval.audit.data import AuditData
from dpd_eval.audit.membership import Scores, membership_tests
from dpd_eval.audit.model import Model
from dpd_eval.audit.network_scores import prototype_score
from dpd_eval.audit.network_tests import Stage, compare_denoiser, sample
from dpd_eval.audit.outcome import Control, not_run
from dpd_eval.audit.overfitted import IMAGES, overfitted_denoiser
from dpd_runtime.annotations import Float32, Images

OTHERS = 500  # images of H beside the memorised ones


def set_controls(
    yardsticks: list[Yardstick], decoded: tuple[Images, Images] | None, progress: Callable[[], None]
) -> list[Control]:
    """Test H2, which must PASS, and randomly rotated images of T, which must FAIL.

    Images of T passed through the VAE must FAIL too, in spaces that see through it.

    Args:
        decoded: T and H passed through the VAE; None without an encoder.
    """
    controls = []
    for yardstick in yardsticks:
        controls += [Control(outcome, "PASS") for outcome in yardstick.control()]
        replays = {"T replayed": yardstick.copies}
        if decoded is not None and yardstick.space.sees_through_vae:
            rows = yardstick.data.copied(COPIES)
            copies = yardstick.compare(turned(decoded[0][rows]), yardstick.data.train.labels[rows])
            replays["T replayed through the VAE"] = copies
        controls += [Control(yardstick.replication(found, what), "FAIL") for what, found in replays.items()]
        progress()
    return controls


def overfitted_control(
    model: Model, data: AuditData, latents: tuple[Float32, Float32], cache: Path, stage: Stage
) -> list[Control]:
    """Test a denoiser that has memorised 50 images of T: the AUC of every score must detect their membership."""
    (_, others), _ = sample(data, latents, OTHERS)
    (known, _), _ = sample(data, latents, IMAGES)
    assert known.latents is not None
    assert others.latents is not None
    names = [c.name for c in model.bundle.classes]
    prompts = model.class_prompts()[[names.index(name) for name in data.classes]]
    sides = [(known.latents, prompts[known.labels]), (others.latents, prompts[others.labels])]
    bar = stage("training the over-fitted control")
    made = overfitted_denoiser(known.latents, model.bundle.schedule, cache, bar)
    scores = compare_denoiser(made.denoise, made.schedule, sides, stage("scoring the control"))
    tests = membership_tests(f"denoiser over-fitted on {len(known.labels)} images", scores)
    spent = "from the cache, trained" if made.cached else "trained"
    noted = [replace(test, note=f"{test.note}; {spent} in {made.seconds:.0f} s") for test in tests]
    return [Control(test, "FAIL") for test in noted if test.name.endswith("AUC")]


def copied_codes_control(data: AuditData, latents: tuple[Float32, Float32]) -> list[Control]:
    """Test codes that are latents of 50 images of T: the prototypes' score must detect the membership of these."""
    (known, _), _ = sample(data, latents, IMAGES)
    (_, others), _ = sample(data, latents, OTHERS)
    assert known.latents is not None
    assert others.latents is not None
    sides = [(known.latents, known.labels), (others.latents, others.labels)]
    scores = Scores(*(prototype_score(*side, known.latents, known.labels) for side in sides))
    tests = membership_tests(f"codes copied from {len(known.labels)} images", {"correlation": scores})
    return [Control(test, "FAIL") for test in tests if test.name.endswith("AUC")]


def without_encoder(reason: str, what: str = "a denoiser over-fitted on 50 images") -> list[Control]:
    return [Control(not_run(f"membership of {what}", reason), "FAIL")]
