"""A classifier of a set, trained and written as ONNX: what `dpd fit` and the Python API do."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from dpd_eval.arms import describe_student
from dpd_eval.fit import fit, new_network
from dpd_eval.inputs import FitInputs
from dpd_eval.students import STUDENTS, at_inference
from dpd_export.classifier import export_classifier, save_classifier
from dpd_runtime.annotations import Progress
from dpd_runtime.classifier import ClassifierRecord


def fit_classifier(
    inputs: FitInputs,
    out: Path,
    *,
    device: str = "cpu",
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> ClassifierRecord:
    """Train a classifier and write it to the folder `out`.

    Args:
        device: as in `dpd_eval.fit.fit`.

    Raises:
        InputError, DataError, BundleError: as `dpd_eval.fit.fit` and `export_classifier`.
    """
    config = inputs.config
    if config.network not in STUDENTS and config.steps != 0:  # a last layer alone is fitted in no time
        _check_export(inputs)
    fitted = fit(inputs, device=device, progress=progress)
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


def _check_export(inputs: FitInputs) -> None:
    """Write a network that is not ours as ONNX before its training, as it may need what ONNX or the site has not.

    Raises:
        InputError, BundleError: as `export_classifier`, or a student that does not take images of the set's size.
    """
    config, classes = inputs.config, len(inputs.classes)
    if config.backbone is None:
        describe_student(config.network, classes, inputs.side, taught=inputs.teacher is not None)
    network = at_inference(new_network(config, classes)).eval()
    images = np.zeros((2, inputs.side, inputs.side, 3), np.uint8)
    with TemporaryDirectory() as scratch:
        export_classifier(network, images, inputs.classes, Path(scratch))
