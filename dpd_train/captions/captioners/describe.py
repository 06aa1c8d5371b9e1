"""Phrases for every image of a scene set, by the captioner that the user named; each image is described once."""

import hashlib
import inspect
from pathlib import Path

import torch

from dpd_runtime.annotations import Progress
from dpd_runtime.errors import InputError
from dpd_train.captions import attributes
from dpd_train.captions.captioners.captioner import Captioner, Phrases
from dpd_train.captions.captioners.stored import StoredPhrases, image_hash
from dpd_train.images import SceneSet


def check_captioner(name: str) -> None:
    """Before images are read: whether `name` is a captioner that can work here. Seconds; loads no weights.

    Raises:
        InputError: an unknown name, or a model that is not on this machine or of another kind.
    """
    find_captioner(name)


def describe_scenes(
    name: str,
    scenes: SceneSet,
    *,
    cache: Path,
    device: torch.device | str = "cpu",
    progress: Progress = lambda done, total: None,
) -> list[Phrases]:
    """The phrases of each image, in the order of `scenes`.

    Args:
        name: `attributes`, `clip:ID` or `vlm:ID`; ID is a folder or the id of a model in the local hub cache.
        cache: phrases are kept in captions/ there (mode 0700), under the captioner's kind, the hash of its model, the
            hash of its vocabulary or instruction, and the hash of the image's pixels. Where all are there already, no
            model is loaded.
        progress: images described and in all; called after each batch, not where nothing is left to do.

    Raises:
        InputError: as `check_captioner`, and a model whose weights cannot be used.
        DiskError: the cache cannot be written; what was written before stays, and the same call goes on there.
    """
    captioner = find_captioner(name)
    stored = StoredPhrases(cache, captioner.kind, captioner.model(), captioner.words)
    hashes = [image_hash(image) for image in scenes.images]
    known = stored.read()
    unknown: dict[str, int] = {}
    for row, key in enumerate(hashes):
        if key not in known:
            unknown.setdefault(key, row)
    rows = list(unknown.values())
    if rows:
        describe = captioner.load(torch.device(device))
        for start in range(0, len(rows), captioner.batch):
            batch = rows[start : start + captioner.batch]
            keys, phrases = [hashes[row] for row in batch], describe(scenes.images[batch])
            stored.append(keys, phrases)
            known |= zip(keys, phrases, strict=True)
            progress(start + len(batch), len(rows))
    return [known[key] for key in hashes]


def find_captioner(name: str) -> Captioner:
    """The captioner called `name`, not loaded yet.

    Raises:
        InputError: as `check_captioner`.
    """
    kind, _, source = name.partition(":")
    if name == "attributes":
        return _attributes()
    if kind == "clip" and source:
        from dpd_train.captions.captioners.clip import clip_captioner

        return clip_captioner(source)
    if kind == "vlm" and source:
        from dpd_train.captions.captioners.vlm import vlm_captioner

        return vlm_captioner(source)
    raise InputError(
        f"no captioner {name!r}: there are attributes, clip:ID and vlm:ID, where ID is a folder or the id of a model"
    )


def _attributes() -> Captioner:
    def source() -> str:
        return hashlib.sha256(inspect.getsource(attributes).encode()).hexdigest()

    words = hashlib.sha256("\n".join(attributes.VOCABULARY).encode()).hexdigest()
    return Captioner("attributes", source, words, attributes.CHUNK, lambda device: attributes.describe_many)
