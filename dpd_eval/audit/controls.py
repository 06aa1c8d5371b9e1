"""Controls: cases with a known verdict. An audit that gets one of them wrong fails (docs/reference/privacy.md)."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from dpd_eval.audit.comparison import Yardstick
from dpd_eval.audit.data import AuditData
from dpd_eval.audit.membership import Scores, membership_tests
from dpd_eval.audit.model import Model
from dpd_eval.audit.network_scores import prototype_score
from dpd_eval.audit.network_tests import Stage, compare_denoiser, sample
from dpd_eval.audit.outcome import Control, control, not_run
from dpd_eval.audit.overfitted import IMAGES, overfitted_denoiser
from dpd_runtime.annotations import Float32

OTHERS = 500  # images of H beside the memorised ones
AVERAGED = 10  # latents in one code
OVERFITTED, AVERAGED_CODES = "a denoiser over-fitted on 50 images", "codes that are means of ten images"


def set_controls(yardsticks: list[Yardstick], progress: Callable[[], None]) -> list[Control]:
    """Test H2, which must PASS, and randomly rotated images of T, which must FAIL.

    Images of T passed through the VAE must FAIL too, in spaces that see through it.
    """
    controls = []
    for yardstick in yardsticks:
        controls += [control(outcome, "PASS") for outcome in yardstick.control()]
        replays = {"T replayed": yardstick.copies}
        if yardstick.space.sees_through_vae and yardstick.shown is not yardstick.copies:
            replays["T replayed through the VAE"] = yardstick.shown
        controls += [control(yardstick.replication(compared, what), "FAIL") for what, compared in replays.items()]
        progress()
    return controls


def overfitted_control(
    model: Model, data: AuditData, latents: tuple[Float32, Float32], cache: Path, stage: Stage
) -> list[Control]:
    """Test a denoiser that has memorised 50 images of T: the AUC of every score must detect their membership."""
    _, others = sample(data, latents, OTHERS)
    known, _ = sample(data, latents, IMAGES)
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
    return [control(test, "FAIL") for test in noted if test.name.endswith("AUC")]


def averaged_codes_control(data: AuditData, latents: tuple[Float32, Float32]) -> list[Control]:
    """Test codes that are means of ten latents of T: the prototypes' score must detect the membership of these."""
    known, others = sample(data, latents, OTHERS)
    assert known.latents is not None
    assert others.latents is not None
    codes, owners = [], []
    for label in np.unique(known.labels):
        rows = np.flatnonzero(known.labels == label)
        parts = np.array_split(rows, max(1, len(rows) // AVERAGED))
        codes += [known.latents[part].mean(axis=0) for part in parts]
        owners += [label] * len(parts)
    sides = [(known.latents, known.labels), (others.latents, others.labels)]
    scores = Scores(*(prototype_score(*side, np.stack(codes), np.array(owners)) for side in sides))
    tests = membership_tests(AVERAGED_CODES, {"correlation": scores})
    return [control(test, "FAIL") for test in tests if test.name.endswith("AUC")]


def without_encoder(reason: str, *what: str) -> list[Control]:
    """Controls that need latents of T."""
    return [control(not_run(f"membership of {name}", reason), "FAIL") for name in what]
