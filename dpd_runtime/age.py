"""Bundles encrypted to a site's public key, as files of age (age-encryption.org/v1), which other tools open too.

The site keeps an identity and gives away its recipient, so that no secret travels. pyrage makes and opens the files.
Here stand the limits of what is handed to it, and the errors.
"""

import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from dpd_runtime.errors import DecryptionError, DiskError, InputError, MissingExtraError
from dpd_runtime.trust import PRIVATE_SUFFIX, PUBLIC_SUFFIX, read_key_text, write_new

MAGIC = b"age-encryption.org/v1\n"
IDENTITY, RECIPIENT = "AGE-SECRET-KEY-1", "age1"
MOST_RECIPIENTS = 500
MOST_HEADER, MOST_STANZAS = 2**16, 600
"""Bytes and stanzas of a header, which has one of each recipient and some that mean nothing. Reading it takes time that
grows with the square of their number, and the shortest take six bytes each."""
_STANZA, _END_OF_HEADER = b"\n-> ", b"\n--- "


def _pyrage() -> Any:
    """Raises: MissingExtraError: it is not installed."""
    try:
        return import_module("pyrage")
    except ModuleNotFoundError as error:
        raise MissingExtraError("pyrage", "age") from error


def write_age_pair(path: Path) -> tuple[Path, str]:
    """Make PATH.key, an identity as age-keygen writes it (mode 0600), and PATH.pub, its recipient.

    Returns:
        The secret file, the recipient.

    Raises:
        InputError: one of the files exists. Keys are never overwritten.
        MissingExtraError: pyrage is not installed.
    """
    identity = _pyrage().x25519.Identity.generate()
    recipient, secret = str(identity.to_public()), path.with_name(path.name + PRIVATE_SUFFIX)
    public = path.with_name(path.name + PUBLIC_SUFFIX)
    if public.exists() or public.is_symlink():
        raise InputError(f"{public} exists, and keys are never overwritten; choose another name")
    write_new(secret, f"# public key: {recipient}\n{identity}\n".encode(), 0o600)
    write_new(public, f"{recipient}\n".encode(), 0o644)
    return secret, recipient


def read_identity(path: Path) -> str:
    """Read the identity in a file of `dpd keygen --age` or age-keygen.

    Raises:
        InputError: the file cannot be read, or holds none or several.
    """
    found = [line for line in _lines(path) if line.startswith(IDENTITY)]
    if len(found) != 1:
        raise InputError(
            f"{path}: holds {len(found) or 'no'} identities of age ({IDENTITY}…); give a file with one, as dpd keygen "
            "--age makes it"
        )
    return found[0]


def read_recipients(given: str) -> tuple[str, ...]:
    """The recipients that --to names: one itself, or those of a file, one on each line, # before comments.

    Raises:
        InputError: no such file, or a line that is no recipient.
    """
    if given.startswith(IDENTITY):
        raise InputError(f"--to: that is a secret identity; give the site's public key, its .pub file ({RECIPIENT}…)")
    itself = given.startswith(RECIPIENT) and not os.path.isfile(given)  # noqa: PTH113 - any text may stand there
    found = (given,) if itself else tuple(_lines(Path(given)))
    if not found:
        raise InputError(f"--to {given}: no recipient in the file; it has one on each line ({RECIPIENT}…)")
    wrong = [line for line in found if not line.startswith(RECIPIENT)]
    if wrong and any(line.startswith(IDENTITY) for line in wrong):
        raise InputError(
            f"--to {given}: holds a secret identity; give the site's public key, its .pub file ({RECIPIENT}…)"
        )
    if wrong:  # its text is not shown, as it may be a passphrase
        raise InputError(f"--to {given}: entry {found.index(wrong[0]) + 1} is no recipient of age ({RECIPIENT}…)")
    return found


def _lines(path: Path) -> list[str]:
    lines = (line.strip() for line in read_key_text(path).splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def encrypt(source: BinaryIO, target: BinaryIO, recipients: Sequence[str]) -> None:
    """Encrypt all of `source` into `target`, for everyone who has the identity of one of the recipients.

    Raises:
        DiskError: `target` cannot be written.
        InputError, MissingExtraError: as `check_recipients`.
    """
    pyrage, made = _pyrage(), check_recipients(recipients)
    try:
        pyrage.encrypt_io(source, target, made)
    except pyrage.EncryptError as error:
        _pass_on(error)
        raise DiskError(f"the bundle cannot be encrypted ({error})") from error


def _pass_on(error: Exception) -> None:
    """Raise what pyrage has made one of its errors of, and which is none of the file."""
    for kind in (KeyboardInterrupt, MemoryError):
        if str(error).startswith(kind.__name__):
            raise kind from None


def check_recipients(recipients: Sequence[str]) -> list[Any]:
    """Recipients as pyrage has them.

    Raises:
        InputError: one that is none, or that is not of type X25519, or too many.
        MissingExtraError: pyrage is not installed.
    """
    pyrage, made = _pyrage(), list[Any]()
    if len(recipients) > MOST_RECIPIENTS:
        raise InputError(
            f"{len(recipients)} recipients, and one file is for {MOST_RECIPIENTS} at most; encrypt it again for the "
            "others"
        )
    for recipient in recipients:
        try:
            made.append(pyrage.x25519.Recipient.from_str(recipient))
        except pyrage.RecipientError as error:
            raise InputError(
                f"{recipient}: no recipient of age of type X25519 ({error}); copy it anew from the site's .pub file, "
                "or ask for one that dpd keygen --age or age-keygen makes"
            ) from None
    return made


def decrypt(path: Path, key: bytes | str | None, target: BinaryIO) -> None:
    """Decrypt a file into `target`, which holds nothing of worth if this raises.

    Args:
        key: the identity; others are of bundles that `dpd encrypt --key` wrote.

    Raises:
        DecryptionError: no identity, one of another site, or a file that was changed or cut off.
        MissingExtraError: pyrage is not installed.
    """
    if not isinstance(key, str) or not key.startswith(IDENTITY):
        raise DecryptionError(
            f"{path} is encrypted to a site's public key: pass --key FILE with that site's identity, the .key file of "
            "dpd keygen --age; where a command has no such option, decrypt the file with dpd decrypt first; in Python: "
            "load_bundle(path, key=…)"
        )
    pyrage = _pyrage()
    with path.open("rb") as file:
        header, end, _ = file.read(MOST_HEADER).partition(_END_OF_HEADER)
        if not end:
            raise DecryptionError(f"{path}: its header has no end within {MOST_HEADER} bytes; fetch it again")
        if (count := header.count(_STANZA)) > MOST_STANZAS:
            raise DecryptionError(
                f"{path}: its header has {count} stanzas, more than {MOST_STANZAS}; ask its sender to encrypt it "
                "for fewer"
            )
        file.seek(0)
        try:
            pyrage.decrypt_io(file, target, [pyrage.x25519.Identity.from_str(key)])
        except pyrage.IdentityError:
            raise DecryptionError(f"{path}: the identity is damaged; give the file of dpd keygen --age") from None
        except (pyrage.DecryptError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # of the disk
                raise
            _pass_on(error)
            if "matching keys" in str(error):
                raise DecryptionError(
                    f"{path}: it was encrypted for others; ask its sender to encrypt it to this site's .pub file"
                ) from None
            raise DecryptionError(f"{path}: it was changed or cut off ({error}); fetch it again") from None
