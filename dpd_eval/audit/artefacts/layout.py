"""Find files that do not belong in a bundle, and prototypes of a single image."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from dpd_eval.audit.artefacts.artefact import Artefact
from dpd_runtime.engines.record import is_engine
from dpd_runtime.errors import BundleError
from dpd_runtime.sampling.prototype_kinds import PRIVATE_KINDS
from dpd_runtime.strict_json import parse_json

# The files of a bundle, and the endings of the files in its folders. Only earlier exports have `step`.
FILES = {
    *("bundle.json", "bundle.sig", "audit.json", "classes.json", "model_index.json", "MODEL_CARD.md"),
    *("prompts.safetensors", "prototypes.safetensors", "golden.safetensors"),
}
GRAPHS = ("unet", "vae_decoder", "vae_encoder", "text_encoder", "classifier", "latent_classifier", "step")
ENDINGS: dict[str, tuple[str, ...]] = dict.fromkeys(GRAPHS, (".onnx", ".onnx_data", ".json"))
ENDINGS |= {"tokenizer": (".json", ".txt"), "scheduler": (".json",), "engines": (".json",)}
OF_ONE_IMAGE = {"caption", "captions", "file_name", "filename", "path", "latitude", "longitude"}


def check_layout(files: Mapping[str, bytes]) -> list[Artefact]:
    """Find files that are not part of the format, such as logs, captions and pictures.

    Raises:
        BundleError: JSON that cannot be read, in which anything could be.
    """
    artefacts = []
    for name in files:
        folder, *rest = PurePosixPath(name).parts
        known = name in FILES if not rest else PurePosixPath(name).suffix in ENDINGS.get(folder, ())
        if not (known or is_engine(name)):
            artefacts.append(Artefact(name, "a file that does not belong in a bundle", ""))
        elif name.endswith(".json") and folder != "tokenizer":
            keys = _keys(parse_json(files[name], name))
            artefacts += [Artefact(name, "a field about single images", key) for key in keys & OF_ONE_IMAGE]
    return artefacts


def _keys(value: Any) -> set[str]:
    """All keys of parsed JSON, whose depth is bounded."""
    if isinstance(value, dict):
        return set(value).union(*map(_keys, value.values()))
    return set().union(*map(_keys, value)) if isinstance(value, list) else set()


def check_table(files: Mapping[str, bytes]) -> list[Artefact]:
    """Find prototypes of a private kind or of a single image."""
    table = parse_json(files["classes.json"], "classes.json")
    artefacts = []
    kind = table.get("prototype_kind")
    if kind in PRIVATE_KINDS or table.get("private"):
        what = PRIVATE_KINDS.get(kind, PRIVATE_KINDS["medoid"])
        artefacts.append(Artefact("prototypes.safetensors", f"{what}, as classes.json says", ""))
    for entry in table["classes"]:
        counts = entry.get("prototype_counts", [])
        if not isinstance(counts, list) or not all(type(count) is int for count in counts):
            raise BundleError(f"classes.json: prototype_counts of {entry['name']} are no whole numbers; export again")
        alone = sum(count < 2 for count in counts)
        if alone:
            artefacts.append(Artefact("classes.json", "a prototype of a single image", f"{alone} of {entry['name']}"))
    return artefacts
