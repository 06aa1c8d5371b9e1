"""Requirements of a site on a bundle: a trusted signature, an audit, encryption (DESIGN §7)."""

from pathlib import Path

from dpd_runtime.bundle.bundle import Bundle
from dpd_runtime.bundle.encryption import is_encrypted
from dpd_runtime.bundle.trusted import trusted_folder
from dpd_runtime.errors import RequirementError

AUDITED = ("PASS", "WARN")
"""Verdicts that `require_audit` accepts. FAIL and "unaudited" are refused."""


def require_signature(bundle: Bundle) -> None:
    """Check that a trusted key has signed the bundle.

    Raises:
        RequirementError: none has.
    """
    if not bundle.signature.trusted:
        raise RequirementError(
            f"{bundle.path}: a trusted signature is required; this bundle is {bundle.signature.describe()}; "
            f"pass --trusted-key, or put the signer's .pub file into {trusted_folder()}"
        )


def require_encrypted(path: Path) -> None:
    """Check that a bundle is encrypted, before it is opened.

    Raises:
        RequirementError: it is not, or there is none.
    """
    if not is_encrypted(path):
        raise RequirementError(
            f"{path}: an encrypted bundle is required; encrypt it with dpd encrypt where it was made, or ask its sender"
        )


def require_audit(bundle: Bundle) -> None:
    """Check that the bundle passed an audit.

    Raises:
        RequirementError: it was not audited, or the audit failed.
    """
    if bundle.manifest.audit not in AUDITED:
        raise RequirementError(
            f"{bundle.path}: an audit is required ({' or '.join(AUDITED)}); this bundle is {bundle.manifest.audit}; "
            "run dpd audit where the training data are"
        )
