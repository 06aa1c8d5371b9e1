"""The state of an unfinished set: its finished images as JSON lines. It stays readable if the process is killed."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dpd_runtime.dataset.shards import WHOLE, Shard
from dpd_runtime.errors import OutputFolderError
from dpd_runtime.files import NO_FOLLOW, write_atomically
from dpd_runtime.images.pictures import read_pixels
from dpd_runtime.strict_json import loads
from dpd_runtime.text import counted, differing

DATASET_NAME = "dataset.json"
METADATA_NAME = "metadata.jsonl"
STATE_NAME = "state.jsonl"
SHARD_STATE = re.compile(r"state-\d+-of-\d+\.jsonl")


def other_settings(out: Path, header: dict[str, Any], wanted: dict[str, Any]) -> OutputFolderError:
    """The error for a set whose header differs."""
    different = differing(key for key in {**wanted, **header} if header.get(key) != wanted.get(key))
    return OutputFolderError(out, f"holds a set made with {different}", removable=True)


def _records(lines: list[str]) -> Iterator[dict[str, Any]]:
    """The records up to the first damaged line."""
    for line in lines:
        try:
            record = loads(line)
        except ValueError:
            return
        if not isinstance(record, dict) or type(record.get("index")) is not int or "file_name" not in record:
            return
        yield record


class State:
    """Finished images as JSON lines after a header line. An incomplete last line is ignored.

    The set has one state file. Each shard appends to its own file. The next process that starts or ends without others
    at work merges these files into the first.
    """

    def __init__(
        self, out: Path, header: dict[str, Any], ipc: int, shard: Shard = WHOLE, *, alone: bool = True
    ) -> None:
        """Args:
            alone: whether no other process works on the set.

        Raises:
            OutputFolderError: another header, or more than `ipc` images per class.
        """
        self.out, self.path = out, out / STATE_NAME
        self.header: dict[str, Any] = json.loads(json.dumps(header, allow_nan=False))
        self.records: dict[str, dict[str, Any]] = {}
        self._add(self._common())
        self.read_shards()
        if any(record["index"] >= ipc for record in self.records.values()):
            raise OutputFolderError(out, f"holds more than {counted(ipc, 'image')} per class", removable=True)
        if alone:
            self.join_shards()
        elif not (out / STATE_NAME).exists():  # others have come, but none has started
            self._write(out / STATE_NAME, list(self.records.values()))
        if shard != WHOLE:
            self.path = out / f"state-{shard.file_part}.jsonl"
            self._write(self.path, self._lines(self.path)[1:])  # without an incomplete last line

    def read_shards(self) -> None:
        """Read the images that other shards have finished.

        Raises:
            OutputFolderError: a shard has another header.
        """
        for path in self._shard_files():
            self._add(self._lines(path))

    def join_shards(self) -> None:
        """Merge the files of the shards into the set's file. No other process may be at work."""
        self._write(self.out / STATE_NAME, list(self.records.values()))
        for path in self._shard_files():
            path.unlink()

    def _shard_files(self) -> list[Path]:
        return sorted(path for path in self.out.iterdir() if SHARD_STATE.fullmatch(path.name))

    def _add(self, lines: list[dict[str, Any]]) -> None:
        if not lines:
            return
        if lines[0] != self.header:
            raise other_settings(self.out, lines[0], self.header)
        self.records |= {record["file_name"]: record for record in lines[1:]}

    def _common(self) -> list[dict[str, Any]]:
        """Header and records of the unfinished set, else of a finished set, which may be extended."""
        lines = self._lines(self.out / STATE_NAME)
        if lines or not (self.out / DATASET_NAME).exists():
            return lines
        finished = loads((self.out / DATASET_NAME).read_text(encoding="utf-8"))
        kept = []
        if (self.out / METADATA_NAME).exists():
            kept = (self.out / METADATA_NAME).read_text(encoding="utf-8", errors="replace").splitlines()
        return [finished.get("made_with", {}), *_records(kept)]

    def _lines(self, path: Path) -> list[dict[str, Any]]:
        """Header and records of a state file; empty without a header."""
        if not path.exists():
            return []
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        try:
            return [loads(lines[0]), *_records(lines[1:])]
        except (ValueError, IndexError):
            return []

    def _write(self, path: Path, records: list[dict[str, Any]]) -> None:
        lines = [self.header, *records]
        write_atomically(path, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines).encode())

    def append(self, records: list[dict[str, Any]]) -> None:
        """Add finished images, on the disk when this returns."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | NO_FOLLOW, 0o666)
        with os.fdopen(descriptor, "ab") as handle:
            handle.write("".join(json.dumps(record, allow_nan=False) + "\n" for record in records).encode())
            handle.flush()
            os.fsync(handle.fileno())
        self.records |= {record["file_name"]: record for record in records}

    def intact(self, out: Path, name: str) -> bool:
        """Whether the image `name` is finished and its file has the recorded pixels."""
        record = self.records.get(name)
        pixels = read_pixels(out / name) if record else None
        if record is None or pixels is None:
            return False
        return bool(hashlib.sha256(pixels.tobytes()).hexdigest() == record.get("pixels_sha256"))
