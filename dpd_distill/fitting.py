"""A classifier of a set, trained and written as ONNX: what `dpd fit` and the Python API do."""

from pathlib import Path

from dpd_eval.fit import fit
from dpd_eval.options import FitConfig
from dpd_eval.sets import Set
from dpd_export.classifier import save_classifier
from dpd_runtime.annotations import Progress
from dpd_runtime.bundle import Bundle
from dpd_runtime.classifier import ClassifierRecord
from dpd_train.scenes import Scenes


def fit_classifier(
    distilled: Path | Scenes | Set,
    out: Path,
    config: FitConfig,
    *,
    own: Path | Scenes | None = None,
    teacher: Bundle | None = None,
    unlabelled: Path | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> ClassifierRecord:
    """Train a classifier and write it to the folder `out`.

    Args:
        distilled, own, teacher, unlabelled, device: as in `dpd_eval.fit.fit`.

    Raises:
        InputError, DataError: as `dpd_eval.fit.fit`.
    """
    fitted = fit(distilled, config, own=own, teacher=teacher, unlabelled=unlabelled, device=device, progress=progress)
    return save_classifier(
        out,
        fitted.network,
        fitted.examples,
        classes=fitted.classes,
        described=config.described,
        training=fitted.training,
        validation=fitted.validation,
        overwrite=overwrite,
    )
