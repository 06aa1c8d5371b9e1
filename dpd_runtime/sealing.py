"""Sign and encrypt bundles, and what a site demands of one."""

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from dpd_runtime import age
from dpd_runtime.archive import (
    FolderFiles,
    Key,
    ZipFiles,
    check_entry_name,
    decrypt_into,
    encrypt,
    open_files,
    pack_zip,
    sealing_of,
    write_zip,
)
from dpd_runtime.bundle import Bundle, load_bundle
from dpd_runtime.errors import BundleError, BundleHashError, DiskError, InputError, RequirementError
from dpd_runtime.files import check_writable, open_atomically, user_folder, write_atomically
from dpd_runtime.manifest import (
    AUDIT_NAME,
    MANIFEST_NAME,
    MAX_SERIAL,
    ONE_IMAGE,
    VERDICTS,
    FileEntry,
    Manifest,
    is_day,
    parse_manifest,
)
from dpd_runtime.trust import (
    DAY,
    LAST_TIME,
    SIGNATURE_NAME,
    PublicKey,
    Signature,
    day_of,
    is_of_future,
    make_private,
    memory_name,
    newest_serial,
    place_of_trust,
    read_serial,
    signature_json,
    today,
    write_serial,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


# -- Sign a bundle (docs/guides/hand-over.md). `dpd_runtime.bundle.signature` checks signatures.


LONGEST_GAP = 366 * DAY
"""Seconds after which it is strange that nothing here is younger: the clock may be years ahead."""


@dataclass(frozen=True)
class Signed:
    """The result of `sign_bundle`.

    Args:
        hash: the bundle's new hash. audit: the verdict in its manifest.
        note: what sites will say to a serial that was asked for; empty for nothing.
    """

    key: PublicKey
    hash: str
    audit: str
    serial: int
    expires: str
    note: str = ""


def sign_bundle(
    path: Path, private: "Ed25519PrivateKey", name: str, *, serial: int | None = None, expires: str = ""
) -> Signed:
    """Verify a bundle, write its serial and expiry into bundle.json, sign that file's bytes and add bundle.sig.

    Other files do not change; the bundle's hash does, as bundle.json does. A .dpd file is rewritten, completely or not
    at all. A folder is unsigned until the end.

    Args:
        name: the user's name for the key.
        serial: 1 … MAX_SERIAL; a site refuses smaller ones than it has seen. None for the time in seconds since 1970,
            or one more than the last serial of this key and name, if that is as late.
        expires: last day (UTC) on which it may be used, as YYYY-MM-DD; empty for no end.

    Raises:
        BundleError: it is damaged.
        InputError: it is encrypted, the serial or the day is not one, or without a serial this machine's clock
            contradicts the last serial or the dates of files: a serial cannot be taken back.
    """
    if sealing_of(path):
        raise InputError(
            f"{path} is encrypted and the signature is part of the content; run dpd decrypt, dpd sign and dpd encrypt"
        )
    if serial is not None and not 1 <= serial <= MAX_SERIAL:
        raise InputError(f"--serial {serial}: give a whole number of 1 … {MAX_SERIAL}")
    _check_expires(expires)
    opened = load_bundle(path, trusted=(), allow_older=True)  # an old signature is replaced in any case
    files = open_files(path)
    digest = hashlib.sha256(files[MANIFEST_NAME]).hexdigest()
    if digest != opened.hash:
        raise BundleHashError(MANIFEST_NAME, digest, opened.hash)
    key = PublicKey(name, private.public_key().public_bytes_raw())
    last, note = _last_serial(key, opened.manifest.name), ""
    if serial is None:
        _check_clock(path, key, last, opened.manifest.serial)
        serial = max(int(time.time()), last + 1)
    else:
        note = _said_by_sites(serial, last)
    manifest = replace(opened.manifest, serial=serial, expires=expires).to_json()
    signature = signature_json(key, private.sign(manifest))
    if isinstance(files, FolderFiles):
        (path / SIGNATURE_NAME).unlink(missing_ok=True)
        write_atomically(path / MANIFEST_NAME, manifest)
        write_atomically(path / SIGNATURE_NAME, signature)
    else:
        kept = {entry: files.source(entry) for entry in opened.manifest.files}
        write_zip(path.resolve(), {**kept, MANIFEST_NAME: manifest, SIGNATURE_NAME: signature})
    _remember(key, opened.manifest.name, serial)
    return Signed(key, hashlib.sha256(manifest).hexdigest(), opened.manifest.audit, serial, expires, note)


def _last_serial(key: PublicKey, name: str) -> int:
    """The last serial that this user gave to `name` with the key, or the newest that this machine saw as a site."""
    made = 0
    with suppress(DiskError):
        made = read_serial(_made(key, name))
    return made or newest_serial(Signature(key.id, key.name), name)


def _remember(key: PublicKey, name: str, serial: int) -> None:
    """Remember what was signed, where the user's other state is. Without a place for it, dates of files must do."""
    with suppress(OSError):
        path = _made(key, name)
        make_private(path.parent)
        write_serial(path, name, key.id, serial)


def _made(key: PublicKey, name: str) -> Path:
    return user_folder("XDG_STATE_HOME", ".local/state", "signed") / memory_name(key.id, name)


def _check_clock(path: Path, key: PublicKey, last: int, own: int) -> None:
    """Check that this machine's clock agrees with the last serial, and with the dates of bundle and software.

    Args:
        own: the bundle's serial of before.

    Raises:
        InputError: it is behind them by more than a day, or a year ahead of the youngest file.
    """
    now, clock = int(time.time()), f"this machine's clock says {today()}"
    if last > now + DAY:
        when = f" of {day_of(last)}" if last < LAST_TIME else ""
        raise InputError(
            f"{path}: {clock}, and the last serial that key {key.name} gave to a bundle of this name is {last}{when}: "
            f"set the clock if it is behind. If that serial was a mistake, sign with --serial {now}; a site that "
            f"remembers it needs --serial {last + 1}"
        )
    dates = [(_written(path), f"{path} is of"), (_written(Path(__file__)), "this software was installed on")]
    if own < LAST_TIME:
        dates.append((own, "its last signature is of"))
    youngest, what = max(dates)
    if youngest > now + DAY:
        raise InputError(
            f"{path}: {clock}, but {what} {day_of(youngest)}: set the clock, or if it is right, sign with "
            f"--serial {now}"
        )
    if youngest < now - LONGEST_GAP:
        raise InputError(
            f"{path}: {clock}, and nothing here is younger than {day_of(youngest)}: a serial of the future cannot be "
            f"taken back; set the clock, or if it is right, sign with --serial {now}"
        )


def _written(path: Path) -> int:
    """When a file, or a bundle's folder, was written last, in seconds since 1970."""
    manifest = path / MANIFEST_NAME
    return int(max(place.stat().st_mtime for place in (path, manifest) if place.exists()))


def _said_by_sites(serial: int, last: int) -> str:
    """What sites will say to a serial that was asked for; empty for nothing."""
    if serial < last:
        return f"sites that saw serial {last} of this name refuse this one"
    if is_of_future(serial):
        return (
            f"read as a time, this serial is {day_of(serial)}: sites use the bundle and do not remember it; numbers of "
            "your own are best below 1000000000"
        )
    return ""


def _check_expires(day: str) -> None:
    if not day:
        return
    if not is_day(day):
        raise InputError(f"--expires {day}: give a day as YYYY-MM-DD, such as 2027-12-31")
    if day < today():
        raise InputError(f"--expires {day} is past; give today or a later day")


# -- Encrypt a bundle to a file, and decrypt it to a file. `archive.open_files` reads an encrypted bundle in memory.


NO_KEY = "give --key FILE, --to RECIPIENT, or set DPD_PASSPHRASE"


def encrypt_bundle(
    bundle: Path, out: Path, key: Key | None, *, recipients: Sequence[str] = (), overwrite: bool = False
) -> Bundle:
    """Verify a bundle and write it encrypted to `out`, completely or not at all. A folder is packed in memory first.

    Args:
        key, recipients: one of them. Recipients are those of age, whose identities open the file.

    Returns:
        The opened bundle.

    Raises:
        BundleError: it is damaged.
        InputError: no key or both, a recipient that is none, `out` exists, or the bundle is already encrypted.
        MissingExtraError: recipients, and pyrage is not installed.
    """
    if not recipients and key is None:
        raise InputError(f"{bundle}: no key to encrypt it with; {NO_KEY}")
    if recipients and key is not None:
        raise InputError(f"{bundle}: a key and recipients to encrypt it to; give one of them")
    if isinstance(key, str) and key.startswith((age.RECIPIENT, age.IDENTITY)):  # which others may know
        raise InputError(f"{bundle}: a key of age is no passphrase; give the site's .pub file with --to")
    if sealing_of(bundle):
        raise InputError(f"{bundle} is already encrypted; to change its key, run dpd decrypt first")
    _check_target(bundle, out, overwrite)
    if recipients:
        age.check_recipients(recipients)  # before the bundle is verified, which takes seconds
    opened = load_bundle(bundle, allow_older=True)  # the site that opens it checks that
    files = open_files(bundle)
    with open_atomically(out) as target, _one_file(bundle, files) as source:
        if key is None:
            age.encrypt(source, target, recipients)
        else:
            encrypt(source, target, key)
    return opened


def _one_file(bundle: Path, files: FolderFiles | ZipFiles) -> BinaryIO:
    if isinstance(files, ZipFiles):
        return bundle.open("rb")
    packed = BytesIO()
    pack_zip(packed, {name: files.source(name) for name in files})
    packed.seek(0)
    return packed


def decrypt_bundle(bundle: Path, out: Path, key: Key | None, *, overwrite: bool = False) -> None:
    """Decrypt a bundle to the .dpd file `out`, which only this user can read, completely or not at all.

    Raises:
        DecryptionError: no key, a wrong key, or a changed file.
        InputError: `out` exists, or the bundle is not encrypted.
    """
    if not bundle.is_file():
        raise BundleError(f"{bundle}: no such file; give what dpd encrypt wrote")
    sealing = sealing_of(bundle)
    if sealing is None:
        raise InputError(f"{bundle} is not encrypted; use it as it is")
    _check_target(bundle, out, overwrite)
    with open_atomically(out, mode=0o600) as target:
        decrypt_into(bundle, sealing, key, target)


def _check_target(bundle: Path, out: Path, overwrite: bool) -> None:
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: the folder {out.parent} does not exist")
    check_writable(out)
    if out.is_dir() or (out.exists() and (not overwrite or out.samefile(bundle))):
        raise InputError(f"{out} exists; choose another --out, or pass --overwrite for a file other than the bundle")


# -- Requirements of a site on a bundle: a trusted signature, an audit, privacy, encryption (docs/guides/hand-over.md).


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
    if sealing_of(path) is None:
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
    """Read ε, or ε and δ with a colon between them, as `--require dp:EPSILON:DELTA` has them.

    Raises:
        InputError: it is something else.
    """
    parts = text.split(":")
    try:
        epsilon, delta = float(parts[0]), float(parts[1]) if len(parts) == 2 else MOST_DELTA
    except ValueError:
        epsilon = delta = 0.0
    if len(parts) > 2 or not (epsilon > 0 and 0 < delta < 1):
        raise InputError(f"--require dp:{text}: give an epsilon such as dp:1, or epsilon and delta such as dp:1:1e-6")
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
            "make one with dpd private where the training data are"
        )


# -- Changed copies of a bundle: files and manifest fields added or replaced, without a signature.


_PIECE = 2**24  # bytes


def check_target(out: Path, overwrite: bool) -> None:
    """Check that a bundle may be written to `out`.

    Raises:
        InputError: `out` exists, and --overwrite was not given or it is not a bundle.
    """
    if not out.exists():
        return
    if not overwrite:
        raise InputError(f"--out {out} exists; choose another --out, or pass --overwrite")
    try:
        load_bundle(out, allow_older=True)
    except BundleError as error:
        raise InputError(
            f"{out} is not an intact bundle ({error}) and is not overwritten; choose another --out"
        ) from error


def check_auditable(bundle: Bundle) -> None:
    """Check that a verdict may be written into a copy of the bundle.

    Raises:
        InputError: the bundle claims differential privacy, and figures from its training images would end that; or it
            is encrypted, and its copy would not be.
    """
    _check_plain(bundle)
    if bundle.manifest.privacy is not None:
        raise InputError(
            f"{bundle.path} claims differential privacy, which a verdict from its training images would end; leave out "
            "--out, and keep what the audit prints to yourself"
        )


def _check_plain(bundle: Bundle) -> None:
    if bundle.key is not None:
        raise InputError(f"{bundle.path} is encrypted, but its changed copy would not be; run dpd decrypt first")


def write_audited(bundle: Bundle, out: Path, record: Mapping[str, Any], verdict: str) -> str:
    """Write a copy of `bundle` with `record` as audit.json and `verdict` as the manifest's audit.

    Args:
        out: as for `write_changed`.
        verdict: one of VERDICTS, the one in `record`.

    Returns:
        The new bundle's hash.
    """
    if verdict not in VERDICTS:
        raise ValueError(f"verdict is {verdict!r}: it must be one of {', '.join(VERDICTS)}")
    if record.get("verdict") != verdict:
        raise ValueError(f"the record's verdict is {record.get('verdict')!r}, not {verdict}")
    check_auditable(bundle)
    raw = (json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
    return write_changed(bundle, out, {AUDIT_NAME: raw}, audit=verdict)


def write_changed(bundle: Bundle, out: Path, added: Mapping[str, bytes | Path], **changes: Any) -> str:
    """Write a copy of `bundle` with files added or replaced. The copy is a new, unsigned bundle.

    Args:
        out: a .dpd file, or a folder if the name has no .dpd ending. It is replaced at the end and may be the bundle
            itself.
        added: content by path in the bundle. If `out` is a folder, a Path is moved, so that large engines are not
            copied.
        changes: new values of manifest fields other than `files`.

    Returns:
        The new bundle's hash.

    Raises:
        InputError: the bundle is encrypted, and its copy would not be; or `out` is something else than a bundle.
        BundleHashError: the bundle was changed after it was opened, or the disk returns other bytes.
        OSError: from the disk. After any error `out` is unchanged.
    """
    _check_plain(bundle)
    for name in added:
        check_entry_name(name)
    entries = dict(bundle.manifest.files) | {name: file_entry(content) for name, content in added.items()}
    manifest = replace(bundle.manifest, **changes, files=dict(sorted(entries.items())))
    raw = manifest.to_json()
    parse_manifest(raw)  # never write a bundle that cannot be opened
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        partial = scratch / "new"
        files = open_files(bundle.path)
        kept = {name: files.source(name) for name in bundle.manifest.files if name not in added}
        if out.suffix == ".dpd":
            write_zip(partial, {**kept, **added, MANIFEST_NAME: raw})
        else:
            _write_folder(partial, {**kept, MANIFEST_NAME: raw}, added)
        _check_written(partial, manifest)
        take_place(partial, out, scratch / "old")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return hashlib.sha256(raw).hexdigest()


def file_entry(content: bytes | Path) -> FileEntry:
    """Hash and size of a content or of a file."""
    if isinstance(content, bytes):
        return FileEntry(hashlib.sha256(content).hexdigest(), len(content))
    with content.open("rb") as file:
        return FileEntry(hashlib.file_digest(file, "sha256").hexdigest(), content.stat().st_size)


def _write_folder(
    folder: Path, copied: Mapping[str, bytes | memoryview | Path], added: Mapping[str, bytes | Path]
) -> None:
    for name in (*copied, *added):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    for name, source in copied.items():
        if isinstance(source, Path):
            shutil.copyfile(source, folder / name)
        else:
            (folder / name).write_bytes(source)
    for name, moved in added.items():
        if isinstance(moved, Path):
            shutil.move(moved, folder / name)
        else:
            (folder / name).write_bytes(moved)


def take_place(finished: Path, out: Path, aside: Path) -> None:
    """Move the finished bundle to `out`. An old folder is moved aside first, and moved back after an error.

    Raises:
        InputError: `out` is something else than a bundle.
    """
    check_target(out, overwrite=True)  # whatever a caller has checked or stored: nothing but a bundle is replaced
    if out.is_dir():
        out.replace(aside)
    try:
        finished.replace(out)
    except BaseException:  # an interrupt too: the caller deletes what lies aside
        if aside.exists():
            aside.replace(out)
        raise


def _check_written(path: Path, manifest: Manifest) -> None:
    """Read everything back and compare it with the manifest's hashes."""
    written = open_files(path)
    for name, entry in manifest.files.items():
        digest = hashlib.sha256()
        for piece in written.pieces(name):
            digest.update(piece)
        if digest.hexdigest() != entry.sha256:
            raise BundleHashError(name, digest.hexdigest(), entry.sha256)
