"""An audit: what `dpd audit` finds, stores as audit.json and `dpd report` reads again."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from dpd_eval.audit.outcome import Control, Outcome
from dpd_eval.reading import convert, parse_json, read_file
from dpd_runtime.bundle.bundle import load_bundle
from dpd_runtime.bundle.manifest import AUDIT_NAME
from dpd_runtime.errors import AuditError, InputError
from dpd_runtime.files import write_atomically
from dpd_runtime.sealing.reseal import write_audited


@dataclass(frozen=True)
class Audited:
    """What was audited. kind: bundle, run or set. bundle_hash: before the audit became a part of it."""

    name: str = ""
    kind: str = ""
    bundle_hash: str | None = None


@dataclass(frozen=True)
class ComparedImages:
    """The real images. fingerprint: sha256 of the sorted content hashes of T. The others: how T was told from its
    validation part; no `--groups`, which tells what files are called."""

    train_images: int
    holdout_images: int
    fingerprint: str
    val_per_class: int | None = None
    split: str | None = None


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Result of an audit. It has no paths and nothing about a single real image.

    Args:
        summary: what was found and what is undecided, in sentences for a newcomer.
        reasons: why the verdict is not PASS, in plain words; the most important first.
        notes: remarks on the data that a reader of the tests needs.
        images, seed: how many images were judged, and the seed of those that a bundle generated.
        encoder, extractor: descriptions of the networks that were used.
        private: folder with pictures and findings for the owner of the data; not stored.
    """

    verdict: Literal["PASS", "WARN", "FAIL"]
    summary: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    tests: tuple[Outcome, ...]
    controls: tuple[Control, ...]
    notes: tuple[str, ...] = ()
    audited: Audited = Audited()
    images: int | None = None
    seed: int | None = None
    data: ComparedImages | None = None
    encoder: str | None = None
    extractor: str | None = None
    further_extractor: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    seconds: float | None = None
    private: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the content of audit.json."""
        content = {key: value for key, value in asdict(self).items() if key != "private"}
        content |= {"tests": [test.to_dict() for test in self.tests]}
        content |= {"controls": [control.to_dict() for control in self.controls]}
        return content if self.further_extractor else {k: v for k, v in content.items() if k != "further_extractor"}


def read_audit(path: Path) -> Audit:
    """Read audit.json of a run or a distillation.

    Raises:
        InputError: it cannot be read, or was written by another version.
    """
    return convert(parse_json(read_file(path), str(path)), Audit, str(path))


def write_record(result: Audit, subject: Path, out: Path | None) -> dict[str, str]:
    """Write audit.json into the run `subject`, or write a copy of the bundle `subject` that includes it to `out`.

    Returns:
        What was written: {"audit": path}, or {"out": path, "bundle_hash": hash}; empty if nothing was.

    Raises:
        InputError: the bundle is not the one that was audited.
    """
    if result.audited.kind == "run":
        path = subject / AUDIT_NAME
        write_atomically(path, (json.dumps(result.to_dict(), indent=1, allow_nan=False) + "\n").encode())
        return {"audit": str(path)}
    if out is None:
        return {}
    bundle = load_bundle(subject, allow_older=True)
    if bundle.hash != result.audited.bundle_hash:
        raise InputError(f"{subject}: changed during the audit; audit it again")
    return {"out": str(out), "bundle_hash": write_audited(bundle, out, result.to_dict(), result.verdict)}


def check_verdict(result: Audit) -> None:
    """Raise an error if the audit failed.

    Raises:
        AuditError: the verdict is FAIL.
    """
    if result.verdict != "FAIL":
        return
    failed = [test.name for test in result.tests if test.verdict == "FAIL"]
    raise AuditError(failed, [control.name for control in result.controls if control.wrong])
