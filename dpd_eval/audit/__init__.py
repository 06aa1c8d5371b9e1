"""The privacy audit: what leaves the house against the training images and a hold-out (METHOD §9)."""

from dpd_eval.audit.audit import AuditResult, audit
from dpd_eval.audit.outcome import Control, Outcome

__all__ = ["AuditResult", "Control", "Outcome", "audit"]
