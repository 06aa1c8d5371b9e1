"""bundle.sig: an ed25519 signature over the bytes of bundle.json, which lists every other file's hash (DESIGN §7)."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from dpd_runtime.errors import SignatureError

SIGNATURE_NAME = "bundle.sig"
ALGORITHM = "ed25519"
MAX_SIGNATURE_BYTES = 4096
_KEY_ID = re.compile(r"[0-9a-f]{32}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")


@dataclass(frozen=True)
class PublicKey:
    """Args:
    name: the file's, without its ending: what the user calls the key. raw: its 32 bytes.
    """

    name: str
    raw: bytes

    @property
    def id(self) -> str:
        """First 16 bytes of sha256 over the raw key, in hexadecimal: what to compare by telephone."""
        return hashlib.sha256(self.raw).hexdigest()[:32]


@dataclass(frozen=True)
class Signature:
    """Who signed a bundle, as far as this site can tell.

    Args:
        key_id: None where nobody did.
        trusted_as: name of the trusted key whose signature holds; None: unsigned, or by a key that is unknown here,
            which counts the same, as nobody checked it.
    """

    key_id: str | None = None
    trusted_as: str | None = None

    @property
    def trusted(self) -> bool:
        return self.trusted_as is not None

    def describe(self) -> str:
        """For example "unsigned", "signed by unknown key 3f…", "signed by trusted key lab (3f…)"."""
        if self.key_id is None:
            return "unsigned"
        if self.trusted_as is None:
            return f"signed by unknown key {self.key_id}"
        return f"signed by trusted key {self.trusted_as} ({self.key_id})"


UNSIGNED = Signature()


def signature_json(key: PublicKey, signature: bytes) -> bytes:
    """The content of bundle.sig."""
    content = {"alg": ALGORITHM, "key_id": key.id, "sig": signature.hex()}
    return (json.dumps(content, sort_keys=True) + "\n").encode()


def parse_signature(raw: bytes) -> tuple[str, bytes]:
    """Key id and the 64 bytes of a signature.

    Raises:
        SignatureError: it is not one that dpd sign wrote.
    """
    broken = SignatureError(f"{SIGNATURE_NAME} is no {ALGORITHM} signature of dpd sign: fetch the bundle again")
    try:
        content = json.loads(raw) if len(raw) <= MAX_SIGNATURE_BYTES else None
    except (ValueError, RecursionError) as error:
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
    """What bundle.sig says of bundle.json's bytes to a site that trusts these keys.

    Raises:
        SignatureError: it is broken, or names a trusted key and does not hold, or a trusted key made it under
            another key's name.
    """
    key_id, signature = parse_signature(raw)
    found = next((key for key in trusted if _holds(key, signature, manifest)), None)
    if found is None:
        named = next((key for key in trusted if key.id == key_id), None)
        if named is None:
            return Signature(key_id)
        raise SignatureError(
            f"{SIGNATURE_NAME}: the signature by trusted key {named.name} ({key_id}) does not hold: "
            "the bundle was changed after it was signed; do not use it"
        )
    if found.id != key_id:
        raise SignatureError(f"{SIGNATURE_NAME} names key {key_id}, but {found.id} made it: fetch the bundle again")
    return Signature(key_id, found.name)


def _holds(key: PublicKey, signature: bytes, manifest: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(key.raw).verify(signature, manifest)
    except InvalidSignature:
        return False
    return True
