"""Record inputs of the UNet while PyTorch generates; no real image is used."""

from dpd_export.graphs.calibration import Calibration
from dpd_export.graphs.parts import Tensors
from dpd_export.reference.cases import RunCases, spread
from dpd_export.reference.reference import Recorder
from dpd_runtime.generation.cases import sample_case
from dpd_runtime.sampling.sampler import Sampler
from dpd_train.bases.base import Base, torch_denoise

SEED = 1
"""Not the reference's seed: the images that judge int8 must not be those that set its ranges."""
CLASSES, IMAGES, MOMENTS = 10, 4, 5


def calibrate(base: Base, cases: RunCases) -> Calibration:
    """MOMENTS calls of IMAGES latents (twice as many rows with guidance) for each of up to CLASSES classes."""
    sampler = cases.sampler
    labels = spread(min(CLASSES, len(cases.names)), list(range(len(cases.names))))
    wanted = {moment * (sampler.steps - 1) // (MOMENTS - 1) for moment in range(MOMENTS)}
    calls: list[Tensors] = []
    for label in labels:
        recorder = Recorder(torch_denoise(base), wanted, ends_only=False)
        rows = [(label, index) for index in range(IMAGES)]
        sample_case(recorder, cases.case(rows, sampler.steps, IMAGES, SEED))
        calls += recorder.calls
    return Calibration(calls, sampler.compute_batch * (2 if guided(sampler) else 1))


def guided(sampler: Sampler) -> bool:
    """Whether sampled images take an unconditional pass in any step."""
    return any(sampler.first_sampled().guides(step, sampler.steps) for step in range(sampler.steps))
