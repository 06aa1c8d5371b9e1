"""The signature bundle.sig: ed25519 over the bytes of bundle.json, which has the hashes of all files."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from dpd_runtime.errors import BundleError, SignatureError
from dpd_runtime.strict_json import parse_json

SIGNATURE_NAME = "bundle.sig"
ALGORITHM = "ed25519"
MAX_SIGNATURE_BYTES = 4096
_KEY_ID = re.compile(r"[0-9a-f]{32}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")


@dataclass(frozen=True)
class PublicKey:
    """A public key. name: of its file, without the ending. raw: its 32 bytes."""

    name: str
    raw: bytes

    @property
    def id(self) -> str:
        """The first 16 bytes of sha256 over the raw key, in hexadecimal, for comparing keys by telephone."""
        return hashlib.sha256(self.raw).hexdigest()[:32]


@dataclass(frozen=True)
class Signature:
    """Who signed a bundle, by the trusted keys of this site.

    Args:
        key_id: None for an unsigned bundle.
        trusted_as: name of the trusted key that made the signature. None for an unsigned bundle or an unknown key,
            whose signature cannot be checked and counts as none.
    """

    key_id: str | None = None
    trusted_as: str | None = None

    @property
    def trusted(self) -> bool:
        return self.trusted_as is not None

    def describe(self) -> str:
        """The signature in words: "unsigned", "signed by unknown key 3f…", "signed by trusted key lab (3f…)"."""
        if self.key_id is None:
            return "unsigned"
        if self.trusted_as is None:
            return f"signed by unknown key {self.key_id}"
        return f"signed by trusted key {self.trusted_as} ({self.key_id})"


UNSIGNED = Signature()


def signature_json(key: PublicKey, signature: bytes) -> bytes:
    """The content of bundle.sig."""
    content = {"alg": ALGORITHM, "key_id": key.id, "sig": signature.hex()}
    return (json.dumps(content, sort_keys=True, allow_nan=False) + "\n").encode()


def parse_signature(raw: bytes) -> tuple[str, bytes]:
    """Parse bundle.sig. Returns the key id and the 64 bytes of the signature.

    Raises:
        SignatureError: dpd sign did not write it.
    """
    broken = SignatureError(f"{SIGNATURE_NAME} is not an {ALGORITHM} signature of dpd sign; fetch the bundle again")
    try:
        content = parse_json(raw, SIGNATURE_NAME) if len(raw) <= MAX_SIGNATURE_BYTES else None
    except BundleError as error:
        raise broken from error
    if not isinstance(content, dict) or set(content) != {"alg", "key_id", "sig"} or content["alg"] != ALGORITHM:
        raise broken
    key_id, signature = content["key_id"], content["sig"]
    if not (isinstance(key_id, str) and _KEY_ID.fullmatch(key_id)):
        raise broken
    if not (isinstance(signature, str) and _SIGNATURE.fullmatch(signature)):
        raise broken
    return key_id, bytes.fromhex(signature)


def check_signature(manifest: bytes, raw: bytes, trusted: Sequence[PublicKey]) -> Signature:
    """Check bundle.sig against the bytes of bundle.json, for a site that trusts these keys.

    Raises:
        SignatureError: it is damaged, or it names a trusted key and does not match, or a trusted key made it under
            another key's id.
    """
    key_id, signature = parse_signature(raw)
    signer = next((key for key in trusted if _holds(key, signature, manifest)), None)
    if signer is None:
        named = next((key for key in trusted if key.id == key_id), None)
        if named is None:
            return Signature(key_id)
        raise SignatureError(
            f"{SIGNATURE_NAME}: the signature by trusted key {named.name} ({key_id}) does not match: "
            "the bundle was changed after it was signed; do not use it"
        )
    if signer.id != key_id:
        raise SignatureError(
            f"{SIGNATURE_NAME} names key {key_id}, but key {signer.id} made it; fetch the bundle again"
        )
    return Signature(key_id, signer.name)


def _holds(key: PublicKey, signature: bytes, manifest: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(key.raw).verify(signature, manifest)
    except InvalidSignature:
        return False
    return True
