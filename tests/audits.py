"""Audits as tests ask for them: opened and run in one call."""

from pathlib import Path
from typing import Any

from dpd_eval.audit import audit as audit_opened
from dpd_eval.subject import AuditSubject, open_audit
from dpd_eval.verdict import Audit


def audit(path: Path | AuditSubject, *, cache: Path | None = None, **options: Any) -> Audit:
    return audit_opened(open_audit(path, **options), cache=cache)
