"""Store an audit's verdict in a run or in a new bundle."""

import json
from pathlib import Path

from dpd_eval.audit.audit import AuditResult
from dpd_runtime.bundle.bundle import load_bundle
from dpd_runtime.bundle.manifest import AUDIT_NAME
from dpd_runtime.errors import AuditError, InputError
from dpd_runtime.files import write_atomically
from dpd_runtime.sealing.reseal import write_audited


def write_record(result: AuditResult, subject: Path, out: Path | None) -> dict[str, str]:
    """Write audit.json into the run `subject`, or write a copy of the bundle `subject` that includes it to `out`.

    Returns:
        What was written: {"audit": path}, or {"out": path, "bundle_hash": hash}; empty if nothing was.

    Raises:
        InputError: the bundle is not the one that was audited.
    """
    if result.about["audited"]["kind"] == "run":
        path = subject / AUDIT_NAME
        write_atomically(path, (json.dumps(result.to_dict(), indent=1) + "\n").encode())
        return {"audit": str(path)}
    if out is None:
        return {}
    bundle = load_bundle(subject, allow_older=True)
    if bundle.hash != result.about["audited"]["bundle_hash"]:
        raise InputError(f"{subject}: changed during the audit; audit it again")
    return {"out": str(out), "bundle_hash": write_audited(bundle, out, result.to_dict(), result.verdict)}


def check_verdict(result: AuditResult) -> None:
    """Raise an error if the audit failed.

    Raises:
        AuditError: the verdict is FAIL.
    """
    if result.verdict != "FAIL":
        return
    failed = [test.name for test in result.tests if test.verdict == "FAIL"]
    broken = [control.outcome.name for control in result.controls if control.wrong]
    raise AuditError(failed, broken)
