"""README.md of a classifier, from its record alone."""

from dpd_runtime.classifier.model import GRAPH_NAME, INPUT, ClassifierRecord
from dpd_runtime.dataset.card import quoted
from dpd_runtime.text import counted


def classifier_card(record: ClassifierRecord) -> str:
    """What the classifier is, how well it does, and how it is used with dpd and without."""
    side, shares = record.side, record.validation
    lines = ["# Classifier", "", *(_released(record) if "privacy" in record.training else _fitted(record))]
    lines += ["", "## How good it is", ""]
    if shares:
        ends = f"{100 * shares['low']:.1f} to {100 * shares['high']:.1f}"
        lines.append(
            f"{100 * shares['oa']:.1f} % of {shares['images']} images of the site that it was not trained on are named "
            f"right (95 % interval {ends}); average over classes {100 * shares['aa']:.1f} %."
        )
    elif checked := record.training.get("set_check"):
        ends = f"{100 * checked['low']:.1f} to {100 * checked['high']:.1f}"
        lines.append(
            f"Not measured on images of the site. A second training with {checked['steps']} steps on a part of the set "
            f"names {100 * checked['oa']:.1f} % of {checked['images']} other images of the set right (95 % interval "
            f"{ends}). Real images may differ: label some that you know, and count."
        )
    else:
        lines.append("Not measured: no images of the site were given. Label some that you know, and count.")
    lines += [
        "",
        "## How to use it",
        "",
        "```sh",
        "dpd predict . IMAGES/ --out labels.csv",
        "```",
        "",
        f"Without dpd, any ONNX Runtime: {GRAPH_NAME} takes `{INPUT}`, float32 [n, 3, {side}, {side}], RGB, each value "
        "divided by 127.5, less 1. It gives logits [n, classes] in this order:",
        "",
        *(f"{number}. {quoted(name)}" for number, name in enumerate(record.classes)),
    ]
    return "".join(f"{line}\n" for line in lines)


def _fitted(record: ClassifierRecord) -> list[str]:
    training = record.training
    lines = [f"`dpd fit` trained it: {quoted(record.network)} for images of {record.side} × {record.side} pixels."]
    for name, what in (("set", "a distilled set"), ("own", "the site's own images")):
        if name in training:
            lines.append(
                f"- {counted(training[name]['images'], 'image')} of {what}, content hash `{training[name]['sha256']}`"
            )
    return [*lines, f"- recipe {quoted(training['recipe']['name'])}, seed {training['seed']}"]


def _released(record: ClassifierRecord) -> list[str]:
    claim = record.training["privacy"]
    return [
        f"`dpd distill --dp` made it: {quoted(record.network)}, for images of {record.side} × {record.side} pixels.",
        f"({claim['epsilon']:.6g}, {claim['delta']:g})-differential privacy. Unit: {quoted(claim['unit'])}.",
        "It was made from public images and what was released for the codes: both together have this one guarantee,",
        "and the bundle's card says what it rests on.",
    ]
