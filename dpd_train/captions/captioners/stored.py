"""Phrases of single images on disk, one JSON line each; private: they never enter a run's public part or a bundle."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dpd_runtime.annotations import Images
from dpd_runtime.errors import DiskError
from dpd_train.captions.captioners.captioner import Phrases


def image_hash(image: Images) -> str:
    """sha256 over shape and pixels, uint8 [H, W, 3]: the same file cut or stretched in another way is another image."""
    return hashlib.sha256(f"{image.shape}".encode() + np.ascontiguousarray(image).tobytes()).hexdigest()


class StoredPhrases:
    """What one captioner said about the images that it has seen, in captions/KIND-KEY.jsonl under `cache`.

    A line is appended for each finished image, so that a killed run goes on behind the last one; a damaged line is
    passed over and its image described again. Processes may append to one file at the same time.
    """

    def __init__(self, cache: Path, kind: str, model: str, words: str) -> None:
        key = hashlib.sha256(json.dumps([kind, model, words]).encode()).hexdigest()
        self.path = cache / "captions" / f"{kind}-{key[:32]}.jsonl"

    def read(self) -> dict[str, Phrases]:
        """Image hash → phrases."""
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise DiskError(f"{self.path}: cannot be read ({error.strerror}); remove it or mend it") from None
        found = {}
        for line in lines:
            try:
                entry = json.loads(line)
                image, phrases = entry["image"], entry["phrases"]
            except (ValueError, KeyError, TypeError):
                continue
            if isinstance(image, str) and isinstance(phrases, list) and all(isinstance(p, str) for p in phrases):
                found[image] = tuple(phrases)
        return found

    def append(self, images: Sequence[str], phrases: Sequence[Phrases]) -> None:
        """Lines for image hashes and their phrases.

        Raises:
            DiskError: they cannot be written.
        """
        entries = zip(images, phrases, strict=True)
        lines = "".join(json.dumps({"image": image, "phrases": words}) + "\n" for image, words in entries)
        try:
            folder = self.path.parent
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if folder.stat().st_mode & 0o077:
                folder.chmod(0o700)  # made by hand or unpacked: what it holds is private all the same
            handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(handle, "r+b", buffering=0) as file:
                if file.seek(0, os.SEEK_END):
                    file.seek(-1, os.SEEK_END)
                    lines = lines if file.read(1) == b"\n" else "\n" + lines  # behind a line that a kill cut off
                content = lines.encode()
                while content:
                    content = content[file.write(content) :]
        except OSError as error:
            raise DiskError(
                f"{self.path.parent}: captions cannot be stored ({error.strerror}); choose another --cache-dir"
            ) from None
