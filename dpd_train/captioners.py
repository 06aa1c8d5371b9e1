"""Phrases for every image of a scene set by the captioner that the user named, stored for later runs.

Stored phrases of single images are private: they never enter a run's public part or a bundle.
"""

import hashlib
import inspect
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dpd_runtime.annotations import Pixels, Progress
from dpd_runtime.errors import DiskError, InputError
from dpd_runtime.files import is_own
from dpd_train import attributes
from dpd_train.attributes import Captioner, Phrases
from dpd_train.model_files import find_model
from dpd_train.scene_set import SceneSet

if TYPE_CHECKING:
    import torch


def image_hash(image: Pixels) -> str:
    """sha256 over shape and pixels, uint8 [H, W, 3]: other crops or stretches of one file are different images."""
    return hashlib.sha256(f"{image.shape}".encode() + np.ascontiguousarray(image).tobytes()).hexdigest()


class StoredPhrases:
    """The phrases of one captioner, one JSON line per image, in captions/KIND-KEY.jsonl under `cache`.

    Lines are appended as images are finished, so that a killed run continues after the last one. Damaged lines are
    skipped and their images described again. Several processes may append to one file at the same time.
    """

    def __init__(self, cache: Path, kind: str, model: str, words: str) -> None:
        key = hashlib.sha256(json.dumps([kind, model, words], allow_nan=False).encode()).hexdigest()
        self.path = cache / "captions" / f"{kind}-{key[:32]}.jsonl"

    def read(self) -> dict[str, Phrases]:
        """Image hash → phrases."""
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise DiskError(f"{self.path}: cannot be read ({error.strerror}); remove it or repair it") from None
        descriptions: dict[str, Phrases] = {}
        for line in lines if is_own(self.path) else []:
            try:
                entry = json.loads(line)
                image, phrases = entry["image"], entry["phrases"]
            except (ValueError, KeyError, TypeError):
                continue
            if isinstance(image, str) and isinstance(phrases, list) and all(isinstance(p, str) for p in phrases):
                descriptions[image] = tuple(phrases)
        return descriptions

    def append(self, images: Sequence[str], phrases: Sequence[Phrases]) -> None:
        """Append lines for image hashes and their phrases.

        Raises:
            DiskError: they cannot be written.
        """
        entries = zip(images, phrases, strict=True)
        lines = "".join(
            json.dumps({"image": image, "phrases": words}, allow_nan=False) + "\n" for image, words in entries
        )
        try:
            folder = self.path.parent
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if folder.stat().st_mode & 0o077:
                folder.chmod(0o700)  # made by hand or unpacked, but its content is private
            handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(handle, "r+b", buffering=0) as file:
                if file.seek(0, os.SEEK_END):
                    file.seek(-1, os.SEEK_END)
                    lines = lines if file.read(1) == b"\n" else "\n" + lines  # after a line that was cut off
                content = lines.encode()
                while content:
                    content = content[file.write(content) :]
        except OSError as error:
            raise DiskError(
                f"{self.path.parent}: captions cannot be stored ({error.strerror}); choose another --cache-dir"
            ) from None


def check_captioner(name: str) -> None:
    """Check, before images are read, that the captioner `name` can work here. Takes seconds; loads no weights.

    Raises:
        InputError: an unknown name, or a model that is of another kind or not on this machine.
    """
    find_captioner(name)


def check_captioner_source(name: str) -> None:
    """Check a captioner's name and that its model is on this machine, without PyTorch; `check_captioner` checks more.

    Raises:
        InputError: an unknown name, or a model that is not on this machine or has no safetensors.
    """
    kind, _, source = name.partition(":")
    if name == "attributes":
        return
    if kind not in ("clip", "vlm") or not source:
        raise InputError(
            f"no captioner {name!r}: there are attributes, clip:ID and vlm:ID, where ID is a folder or the id of a "
            "model"
        )
    find_model(source)


def describe_scenes(
    name: str,
    scenes: SceneSet,
    *,
    cache: Path,
    device: "torch.device | str" = "cpu",
    progress: Progress = lambda done, total: None,
) -> list[Phrases]:
    """The phrases of each image, in the order of `scenes`.

    Args:
        name: `attributes`, `clip:ID` or `vlm:ID`; ID is a folder or the id of a model in the local hub cache.
        cache: phrases are kept in captions/ there (mode 0700), under the captioner's kind, the hash of its model, the
            hash of its vocabulary or instruction, and the hash of the image's pixels. No model is loaded if all are
            there already.
        progress: called with the images described and the total after each batch, if any are left to describe.

    Raises:
        InputError: as `check_captioner`, and a model whose weights cannot be used.
        DiskError: the cache cannot be written; what was written stays, and the same call continues from there.
    """
    import torch

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
    check_captioner_source(name)
    kind, _, source = name.partition(":")
    if name == "attributes":
        return _attributes()
    if kind == "clip":
        from dpd_train.captioning_models import clip_captioner

        return clip_captioner(source)
    from dpd_train.captioning_models import vlm_captioner

    return vlm_captioner(source)


def _attributes() -> Captioner:
    def source() -> str:
        return hashlib.sha256(inspect.getsource(attributes).encode()).hexdigest()

    words = hashlib.sha256("\n".join(attributes.VOCABULARY).encode()).hexdigest()
    return Captioner("attributes", source, words, attributes.CHUNK, lambda device: attributes.describe_many)
