"""A classifier for tests without PyTorch: the teacher of the embedded bundle."""

import hashlib
from pathlib import Path

from dpd_runtime import embedded_bundle, load_bundle
from dpd_runtime.classifier import ClassifierRecord, classifier_card, write_classifier
from dpd_runtime.manifest import FileEntry

TRAINING = {"set": {"images": 5, "sha256": "0" * 64}, "recipe": {"name": "quick"}, "seed": 0}


def write_teacher(folder: Path) -> Path:
    """Write it into `folder`/teacher."""
    bundle = load_bundle(embedded_bundle())
    graph = bundle.files["classifier/model.onnx"]
    record = ClassifierRecord(
        classes=tuple(scene.name for scene in bundle.classes),
        side=bundle.manifest.image_shape[0],
        graph=FileEntry(hashlib.sha256(graph).hexdigest(), len(graph)),
        network="teacher",
        training=TRAINING,
    )
    write_classifier(folder / "teacher", graph, record, classifier_card(record))
    return folder / "teacher"
