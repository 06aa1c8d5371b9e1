"""Read the given paths. Each is recognised by its content and named without its folder."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpd_eval.reading import parse_json, read_file
from dpd_eval.report.audits import NamedAudit, Timings, read_audit, read_bench, read_timings
from dpd_eval.report.evaluations import NamedEvaluation, looks_like_evaluation, read_evaluation
from dpd_eval.report.models import BundleRecord, RunRecord, read_bundle, read_run
from dpd_eval.report.names import hide_paths, short_names
from dpd_eval.report.sets import SetRecord, read_set
from dpd_eval.report.wording import plain
from dpd_runtime.bundle.encryption import is_encrypted
from dpd_runtime.bundle.manifest import MANIFEST_NAME
from dpd_runtime.bundle.signature import PublicKey
from dpd_runtime.dataset.state import DATASET_NAME, STATE_NAME
from dpd_runtime.errors import InputError

SUPPORTED = (
    "a JSON file of dpd evaluate, dpd audit or dpd bench, the folder of a distilled set, "
    "a bundle (.dpd or folder), a run folder, or the folder of dpd distill"
)


@dataclass(frozen=True)
class InputFile:
    """One path as the page lists it. hashed: what the hash was computed of."""

    name: str
    kind: str
    hashed: str
    hash: str


@dataclass(frozen=True)
class Inputs:
    files: tuple[InputFile, ...] = ()
    evaluations: tuple[NamedEvaluation, ...] = ()
    sets: tuple[SetRecord, ...] = ()
    bundles: tuple[BundleRecord, ...] = ()
    runs: tuple[RunRecord, ...] = ()
    audits: tuple[NamedAudit, ...] = ()
    benches: tuple[Timings, ...] = ()


Keys = Sequence[PublicKey] | None
Record = NamedEvaluation | SetRecord | BundleRecord | RunRecord | NamedAudit | Timings


def read_inputs(paths: Sequence[Path], trusted: Keys = None) -> Inputs:
    """Read all paths.

    Args:
        trusted: keys whose signatures of bundles count; None for those in the user's trusted folder.

    Raises:
        InputError: no path, a path given twice, a path that dpd did not write, a file with wrong content, or keys where
            no path is a bundle.
        BundleError: a bundle that does not verify.
    """
    if not paths:
        raise InputError(f"no PATH given: name at least one of {SUPPORTED}")
    resolved = [path.resolve() for path in paths]
    for i, path in enumerate(resolved):
        if path in resolved[:i]:
            raise InputError(f"{paths[i]} is given twice; name each input once")
    files: list[InputFile] = []
    records: list[Record] = []
    for path, name in zip(paths, short_names([str(path) for path in resolved]), strict=True):
        file, entries = _read(path, name, trusted)
        files.append(file)
        records += entries
    if trusted is not None and not any(isinstance(record, BundleRecord) for record in records):
        raise InputError("--trusted-key has no effect: none of the paths is a bundle; leave it out")
    audits = [r.audit_record for r in records if isinstance(r, BundleRecord | RunRecord) and r.audit_record]
    return Inputs(
        files=tuple(files),
        evaluations=tuple(r for r in records if isinstance(r, NamedEvaluation)),
        sets=tuple(r for r in records if isinstance(r, SetRecord)),
        bundles=tuple(r for r in records if isinstance(r, BundleRecord)),
        runs=tuple(r for r in records if isinstance(r, RunRecord)),
        audits=(*audits, *(r for r in records if isinstance(r, NamedAudit))),
        benches=tuple(r for r in records if isinstance(r, Timings)),
    )


def _read(path: Path, name: str, trusted: Keys) -> tuple[InputFile, list[Record]]:
    if path.is_dir():
        return _read_folder(path, name, trusted)
    if not path.is_file():  # opening a pipe would wait for its other end
        raise InputError(f"{path}: {'is no regular file' if path.exists() else 'does not exist'}; give {SUPPORTED}")
    if path.suffix == ".json":
        return _read_json(path, name, trusted)
    with path.open("rb") as file:
        magic = file.read(4)
    if path.suffix == ".dpd" or magic == b"PK\x03\x04":
        bundle = read_bundle(path, name, trusted)
        return InputFile(name, "bundle", "bundle.json", bundle.hash), [bundle]
    if is_encrypted(path):
        raise InputError(f"{path}: is encrypted, and a report shows what it reads; give what dpd decrypt makes of it")
    raise InputError(f"{path}: was not written by dpd; give {SUPPORTED}")


def _read_folder(path: Path, name: str, trusted: Keys) -> tuple[InputFile, list[Record]]:
    if (path / DATASET_NAME).is_file():
        record = read_set(path, name)
        kind = "real subset" if record.real_images else "distilled set"
        return InputFile(name, kind, "pixels (set hash)", record.set_hash), [record]
    if (path / MANIFEST_NAME).is_file():
        bundle = read_bundle(path, name, trusted)
        return InputFile(name, "bundle", "bundle.json", bundle.hash), [bundle]
    if (path / "run.json").is_file():
        digest = hashlib.sha256(read_file(path / "run.json")).hexdigest()
        return InputFile(name, "run", "run.json", digest), [read_run(path, name)]
    if (path / STATE_NAME).is_file():
        raise InputError(f"{path}: the set is unfinished; run the same dpd generate again before the report")
    raise InputError(f"{path}: contains no {DATASET_NAME}, {MANIFEST_NAME} or run.json; give {SUPPORTED}")


def _read_json(path: Path, name: str, trusted: Keys) -> tuple[InputFile, list[Record]]:
    if path.name in (DATASET_NAME, MANIFEST_NAME, "run.json"):
        return _read_folder(path.parent, short_names([str(path.resolve().parent)])[0], trusted)
    if path.resolve().parent.name == "private" and (path.resolve().parents[1] / "run.json").exists():
        raise InputError(f"{path}: is in a run's private folder, which a report must not show")
    raw = read_file(path)
    content, stem = parse_json(raw, str(path)), name.removesuffix(".json")
    digest = hashlib.sha256(raw).hexdigest()
    if "verdict" in content and "tests" in content:
        return InputFile(name, "audit", "file", digest), [read_audit(content, stem, str(path))]
    if "networks" in content and "peak_memory" in content:
        return InputFile(name, "benchmark", "file", digest), [read_bench(content, stem, str(path))]
    if "timings" in content:
        return InputFile(name, "benchmark", "file", digest), [read_timings(content, stem, str(path))]
    evaluations = _evaluations(content, stem, str(path))
    if not evaluations:
        raise InputError(f"{path}: is JSON, but not a result that a report can show; give {SUPPORTED}")
    return InputFile(name, "evaluation", "file", digest), list(evaluations)


def _evaluations(content: dict[str, Any], stem: str, where: str) -> list[NamedEvaluation]:
    """Read the object itself, or the evaluations inside a committed result with its other values as context."""
    if looks_like_evaluation(content):
        return [read_evaluation(content, stem, where)]
    inside = [key for key, value in content.items() if looks_like_evaluation(value)]
    context = tuple(_flat({key: value for key, value in content.items() if key not in inside}))
    names = [stem if key == "evaluation" else f"{stem}: {hide_paths(key)}" for key in inside]
    pairs = zip(inside, names, strict=True)
    return [read_evaluation(content[key], name, f"{where}: {key}", context) for key, name in pairs]


def _flat(content: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in content.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}: ")
        elif not isinstance(value, list):
            rows.append((hide_paths((prefix + key).replace("_", " ")), hide_paths(plain(value))))
    return rows
