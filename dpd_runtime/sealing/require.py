"""Requirements of a site on a bundle: a trusted signature, an audit, privacy, encryption (docs/guides/hand-over.md)."""

from pathlib import Path

from dpd_runtime.bundle.bundle import Bundle
from dpd_runtime.bundle.encryption import is_encrypted
from dpd_runtime.bundle.privacy import ONE_IMAGE
from dpd_runtime.bundle.trusted import place_of_trust
from dpd_runtime.errors import InputError, RequirementError

AUDITED = ("PASS", "WARN")
"""Verdicts that `require_audit` accepts. FAIL and "unaudited" are refused."""

MOST_DELTA = 1e-5
"""δ that `parse_privacy` takes if the site names none."""


def require_signature(bundle: Bundle) -> None:
    """Check that a trusted key has signed the bundle.

    Raises:
        RequirementError: none has.
    """
    signature = bundle.signature
    if signature.trusted:
        return
    way_out = "ask its sender to sign it with dpd sign"
    if signature.key_id is not None:
        way_out = (
            f"where you trust that key, pass its .pub file as --trusted-key, or without that option put it into "
            f"{place_of_trust()}"
        )
    raise RequirementError(
        f"{bundle.path}: a trusted signature is required; this bundle is {signature.describe()}; {way_out}"
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
    """Check that the bundle passed an audit, as a trusted key says.

    Raises:
        RequirementError: no trusted key signed it, it was not audited, or the audit failed.
    """
    require_signature(bundle)
    if bundle.manifest.audit not in AUDITED:
        raise RequirementError(
            f"{bundle.path}: an audit is required ({' or '.join(AUDITED)}); this bundle is {bundle.manifest.audit}; "
            "run dpd audit where the training data are"
        )


def parse_privacy(text: str) -> tuple[float, float]:
    """Read ε, or ε and δ with a comma between them, as `--require-dp` takes them.

    Raises:
        InputError: it is something else.
    """
    parts = text.split(",")
    try:
        epsilon, delta = float(parts[0]), float(parts[1]) if len(parts) == 2 else MOST_DELTA
    except ValueError:
        epsilon = delta = 0.0
    if len(parts) > 2 or not (epsilon > 0 and 0 < delta < 1):
        raise InputError(f"--require-dp {text}: give an epsilon such as 1, or epsilon and delta such as 1,1e-6")
    return epsilon, delta


def require_privacy(bundle: Bundle, wanted: tuple[float, float]) -> None:
    """Check that a trusted key vouches for differential privacy with at most this (ε, δ). An audit is not asked for.

    Raises:
        RequirementError: no trusted key signed the bundle, or it claims none, or a weaker one.
    """
    require_signature(bundle)
    epsilon, delta = wanted
    claim = bundle.manifest.privacy
    if claim is None or claim.epsilon > epsilon or claim.delta > delta or claim.unit != ONE_IMAGE:
        made = "claims none" if claim is None else f"claims ({claim.epsilon:.6g}, {claim.delta:g})"
        if claim is not None and claim.unit != ONE_IMAGE:
            made += f" of {claim.unit!r}, not of {ONE_IMAGE}"
        raise RequirementError(
            f"{bundle.path}: ({epsilon:g}, {delta:g})-differential privacy is required; this bundle {made}; "
            "make one with dpd distill --dp where the training data are"
        )
