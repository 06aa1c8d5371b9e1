"""What a model card is written from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dpd_runtime.bundle.manifest import Manifest

Record = Mapping[str, Any]


@dataclass(frozen=True)
class CardContent:
    """What the card is written from.

    Args:
        run: the content of run.json, with "base_pretraining" (the base's pretrain.json) and "hardware" where they are.
        manifest: with the final parity, and the files without the card.
        classes: the content of classes.json.
        parameters: number of parameters of each graph by its path.
        options: options of `dpd export` beside name, precision and the data's licence, by their names.
    """

    run: Record
    manifest: Manifest
    classes: Record
    parameters: Mapping[str, int]
    options: Record = field(default_factory=dict)
