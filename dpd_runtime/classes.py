"""The classes of a bundle: classes.json, prompts.safetensors and prototypes.safetensors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from dpd_runtime.annotations import Array, Float32
from dpd_runtime.errors import BundleError
from dpd_runtime.files import equal_names, is_safe_name, parse_json
from dpd_runtime.sampler import PrototypeKind, fits
from dpd_runtime.text import LONGEST_NAME, LONGEST_TEXT, counted, is_readable

MAX_CLASSES = 10_000
RESERVED = (".json", ".jsonl", ".png", ".safetensors", ".parquet", ".npz", ".tar", "readme.md", "classes.txt")
"""Endings of the files beside the class folders of a set."""


@dataclass(frozen=True)
class SceneClass:
    """One class of a bundle.

    Args:
        prompt_rows: row of `Bundle.prompt_embeddings` for each prototype; one row if there are no prototypes. Empty in
            a codes-only bundle.
        prototypes: [K, C, h, w] float32 scaled latents, K ≥ 0. Image i uses prototype i mod K. Prototypes of kind
            `pooled` are block means, with smaller sides.
        prototype_kind: a `dpd_runtime.sampler.PrototypeKind`, the same for all classes.
        training_images: different images behind matched codes; None where the bundle does not tell.
    """

    name: str
    label: int
    prompt_rows: tuple[int, ...]
    prototypes: Float32
    prototype_kind: str
    training_images: int | None = None

    def __repr__(self) -> str:
        prototypes = counted(len(self.prototypes), "prototype")
        return f"SceneClass({self.name!r}, label {self.label}, {prototypes}, {self.prototype_kind})"

    @property
    def distinct_prototypes(self) -> int:
        """The number of prototypes without those that equal another bit by bit."""
        return len({prototype.tobytes() for prototype in self.prototypes})


@dataclass(frozen=True)
class ClassTable:
    """All classes and prompts. prompt_embeddings: [P, L, D]; empty_embedding: [L, D]. No prompts: P = L = D = 0."""

    classes: tuple[SceneClass, ...]
    prompts: tuple[str, ...]
    prompt_embeddings: Float32 = field(repr=False)
    empty_embedding: Float32 = field(repr=False)


def check_class_name(name: object) -> str:
    """Check that a class name can be the name of a folder.

    Raises:
        BundleError: it cannot.
    """
    good = isinstance(name, str) and is_safe_name(name) and name == name.strip()
    good = good and len(str(name).encode()) <= LONGEST_NAME  # with a number and a suffix it must fit into 255 bytes
    good = good and not any(c in str(name) for c in '*?"<>|') and not str(name).startswith(".")
    if not good or str(name).lower().endswith(RESERVED):
        raise BundleError(
            f"classes.json: class name {name!r:.80} cannot be a folder name; rename the class and export again"
        )
    return str(name)


def read_class_table(files: Mapping[str, bytes], latent_shape: tuple[int, ...]) -> ClassTable:
    """Read and check the class table.

    Raises:
        BundleError: something is missing or invalid, or the parts do not fit together.
    """
    prompts = _tensors(files, "prompts.safetensors")
    table = parse_json(files["classes.json"], "classes.json")
    try:
        embeddings, empty = prompts["embeddings"], prompts["empty"]
        classes = _classes(table, _tensors(files, "prototypes.safetensors"), len(embeddings), latent_shape)
        texts = tuple(table["prompts"])
        if not all(isinstance(text, str) and is_readable(text) for text in texts):
            raise BundleError(
                "classes.json: a prompt is no text, has characters that cannot be printed, or more than "
                f"{LONGEST_TEXT}; export the bundle again"
            )
    except (KeyError, TypeError) as error:
        raise BundleError(
            f"classes.json or prompts.safetensors is incomplete ({error}); export the bundle again"
        ) from error
    together = embeddings.ndim == 3 and embeddings.shape[1:] == empty.shape
    if not (together and len(texts) == len(embeddings) > 0):
        raise BundleError("prompts.safetensors: shapes do not fit together; export the bundle again")
    return ClassTable(classes, texts, embeddings, empty)


def read_code_table(files: Mapping[str, bytes], latent_shape: tuple[int, ...]) -> ClassTable:
    """Read and check the class table of a codes-only bundle, which has matched codes in every class and no prompts.

    Raises:
        BundleError: something is missing or invalid, or the parts do not fit together.
    """
    table = parse_json(files["classes.json"], "classes.json")
    try:
        prompts = table["prompts"]
        classes = _classes(table, _tensors(files, "prototypes.safetensors"), 0, latent_shape)
    except (KeyError, TypeError) as error:
        raise BundleError(f"classes.json is incomplete ({error}); export the bundle again") from error
    if prompts != [] or not all(scene.prototype_kind == "matched" and len(scene.prototypes) for scene in classes):
        raise BundleError(
            "classes.json: a codes-only bundle has matched codes in every class, and no prompts; export it again"
        )
    return ClassTable(classes, (), np.zeros((0, 0, 0), np.float32), np.zeros((0, 0), np.float32))


def images_behind(kind: str, counts: object) -> int | None:
    """Different training images of a class, which all stand behind each of its matched codes; None if that is unknown.

    Args:
        counts: of images behind each prototype, as classes.json has them. Of other kinds than matched codes they are of
            clusters, some of which may have been left out.
    """
    if kind != "matched" or not isinstance(counts, list) or not counts:
        return None
    return max(counts) if all(type(count) is int and count >= 0 for count in counts) else None


def _tensors(files: Mapping[str, bytes], name: str) -> dict[str, Float32]:
    out = {}
    for key, value in read_tensors(files[name], name).items():
        if value.dtype not in (np.float16, np.float32) or not np.isfinite(value).all():
            raise BundleError(f"{name}: tensor {key!r} is not finite float16 or float32; export the bundle again")
        out[key] = value.astype(np.float32, copy=False)
    return out


def _classes(
    content: Any, prototypes: dict[str, Float32], prompts: int, latent_shape: tuple[int, ...]
) -> tuple[SceneClass, ...]:
    classes = []
    entries, kind = content["classes"], content.get("prototype_kind", "centroid")
    if kind not in get_args(PrototypeKind):
        raise BundleError("classes.json: prototypes of a kind that this version does not know; upgrade dpd-distill")
    if len(entries) > MAX_CLASSES:
        raise BundleError(f"classes.json: {len(entries)} classes, more than {MAX_CLASSES}")
    for label, entry in enumerate(entries):
        name = check_class_name(entry["name"])
        rows = tuple(entry["prompt_rows"])
        latents = prototypes.get(f"class.{label}", np.zeros((0, *latent_shape), np.float32))
        if not fits(kind, latents.shape, latent_shape):
            raise BundleError(
                f"prototypes.safetensors: class {name} has shape {latents.shape}, not K × {latent_shape} ({kind})"
            )
        if (prompts and not rows) or any(type(r) is not int or not 0 <= r < prompts for r in rows):
            raise BundleError(f"classes.json: class {name} refers to prompts that prompts.safetensors does not hold")
        if len(rows) != (max(1, len(latents)) if prompts else 0):
            raise BundleError(
                f"classes.json: class {name} has {counted(len(rows), 'prompt')} for "
                f"{counted(len(latents), 'prototype')}"
            )
        images = images_behind(kind, entry.get("prototype_counts"))
        classes.append(SceneClass(name, label, rows, latents, kind, images))
    if len({scene.prototypes.shape[1:] for scene in classes if len(scene.prototypes)}) > 1:
        raise BundleError("prototypes.safetensors: classes have prototypes of several sizes; export the bundle again")
    equal = equal_names(scene.name for scene in classes)
    if equal is not None or len(classes) < 2:
        same = f"; {equal[0]!r} and {equal[1]!r} are one folder on some systems" if equal else ""
        raise BundleError(
            f"classes.json: there must be two or more classes with different names{same}; export the bundle again"
        )
    return tuple(classes)


# -- Reading a bundle's safetensors files: prompts, prototypes and golden images.


MAX_HEADER_BYTES = 2 * 2**20
"""Each class has a tensor, and Python needs up to 40 times as much to hold their names."""


def read_tensors(raw: bytes, name: str) -> dict[str, Array]:
    """The tensors of a file, by name. They take as much memory as the file.

    Args:
        name: of the file in the bundle, for errors.

    Raises:
        BundleError: the header is too long, or this is no safetensors file.
        MemoryError: it does not fit into memory.
    """
    if int.from_bytes(raw[:8], "little") > MAX_HEADER_BYTES:
        raise BundleError(f"{name} has a header of more than {MAX_HEADER_BYTES} bytes; export the bundle again")
    # safetensors panics or hangs where memory ends in the middle of its work. This raises MemoryError before.
    np.empty(3 * len(raw) + 2**24, np.uint8)
    try:
        return load(raw)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{name} cannot be read as safetensors ({error}); export the bundle again") from error
