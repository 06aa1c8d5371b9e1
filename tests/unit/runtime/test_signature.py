"""Signatures: which are trusted, which count as unsigned, and which are refused. Also: key files."""

import json
import os
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpd_runtime.archive import write_zip
from dpd_runtime.bundle import Bundle, load_bundle
from dpd_runtime.errors import BundleError, InputError, RequirementError, SignatureError
from dpd_runtime.sealing import require_audit, require_signature, sign_bundle, write_audited, write_changed
from dpd_runtime.trust import (
    PublicKey,
    parse_signature,
    read_encryption_key,
    read_passphrase,
    read_public_key,
    read_signing_key,
    signature_json,
    trusted_folder,
    trusted_keys,
    write_encryption_key,
    write_signing_pair,
)
from tests.unit.runtime.test_bundle import Store, as_folder, as_zip, both, bundle_files, parts
from tests.unit.runtime.test_bundle_engines import ENGINE, PLAN, with_engine

LAB = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
slow_files = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def public(private: Ed25519PrivateKey, name: str = "lab") -> PublicKey:
    return PublicKey(name, private.public_key().public_bytes_raw())


@pytest.fixture(autouse=True)
def own_config(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty user configuration, so that the user's trusted keys are not read."""
    folder = tmp_path_factory.mktemp("config")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    return folder


def entries(path: Path) -> dict[str, bytes]:
    from dpd_runtime.archive import open_files

    return {name: bytes(content) for name, content in open_files(path).items()}


@both
def test_a_trusted_signature_holds(store: Store, tmp_path: Path) -> None:
    files = bundle_files(with_engine())
    path = store(tmp_path, files)
    signed = sign_bundle(path, LAB, "lab")
    bundle = load_bundle(path, trusted=[public(OTHER, "other"), public(LAB)])
    assert bundle.signature.trusted
    assert bundle.signature.describe() == f"signed by trusted key lab ({public(LAB).id})"
    assert signed.hash == bundle.hash
    assert bundle.read_engine(ENGINE) == PLAN
    content = entries(path)
    unsigned, now = (json.loads(entry["bundle.json"]) for entry in (files, content))
    assert now == unsigned | {"serial": signed.serial}
    assert abs(signed.serial - time.time()) < 600
    assert {name: content[name] for name in with_engine()} == with_engine()
    assert set(content) - set(files) == {"bundle.sig"}
    assert list(path.parent.iterdir()) == [path]
    written = json.loads(content["bundle.sig"])  # the contract (docs/reference/bundle-format.md), by the primitives
    assert (set(written), written["alg"]) == ({"alg", "key_id", "sig"}, "ed25519")
    LAB.public_key().verify(bytes.fromhex(written["sig"]), content["bundle.json"])
    require_signature(bundle)


def test_signing_is_deterministic_and_replaces(tmp_path: Path) -> None:
    path = as_zip(tmp_path, bundle_files())
    sign_bundle(path, LAB, "lab", serial=3)
    first = path.read_bytes()
    sign_bundle(path, OTHER, "other", expires="2999-12-31")
    assert load_bundle(path, trusted=[public(OTHER)]).signature.trusted
    assert load_bundle(path, trusted=[public(LAB)]).signature.describe() == f"signed by unknown key {public(OTHER).id}"
    sign_bundle(path, LAB, "lab", serial=3)
    assert path.read_bytes() == first


@both
def test_nobody_and_an_unknown_key_count_as_unsigned(store: Store, tmp_path: Path) -> None:
    path = store(tmp_path, bundle_files())
    for sign in (lambda: None, lambda: sign_bundle(path, LAB, "lab")):
        sign()
        bundle = load_bundle(path, trusted=[public(OTHER)])
        assert not bundle.signature.trusted
        with pytest.raises(RequirementError, match=r"bundle is (unsigned; ask its sender|.*; where .* --trusted-key)"):
            require_signature(bundle)
    assert bundle.signature.describe() == f"signed by unknown key {public(LAB).id}"


@both
def test_a_changed_bundle_with_new_hashes_does_not_hold(store: Store, tmp_path: Path) -> None:
    """Hashes alone do not detect this: a file was changed, and the manifest with it."""
    signature = signature_json(public(LAB), LAB.sign(bundle_files()["bundle.json"]))
    files = bundle_files(parts() | {"unet/model.onnx": b"evil"}) | {"bundle.sig": signature}
    path = store(tmp_path, files)
    assert not load_bundle(path, trusted=[]).signature.trusted
    with pytest.raises(SignatureError, match=r"signature by trusted key lab \(.*\) does not match") as raised:
        load_bundle(path, trusted=[public(LAB)])
    assert raised.value.exit_code == 3
    sign_bundle(path, OTHER, "other")  # whoever signs again does so in their own name
    assert load_bundle(path, trusted=[public(LAB)]).signature.trusted_as is None


def test_a_signature_under_another_name_is_refused(tmp_path: Path) -> None:
    signature = signature_json(public(OTHER), LAB.sign(bundle_files()["bundle.json"]))
    path = as_folder(tmp_path, bundle_files() | {"bundle.sig": signature})
    with pytest.raises(SignatureError, match=rf"names key {public(OTHER).id}, but key {public(LAB).id} made it"):
        load_bundle(path, trusted=[public(LAB)])


SIGNED = signature_json(public(LAB), LAB.sign(bundle_files()["bundle.json"]))


@slow_files
@given(position=st.integers(0, len(SIGNED) - 1), bit=st.integers(0, 7))
def test_any_bit_of_a_signature(position: int, bit: int, tmp_path: Path) -> None:
    """In a folder, which has no zip checksums."""
    changed = bytearray(SIGNED)
    changed[position] ^= 1 << bit
    path = as_folder(tmp_path, bundle_files() | {"bundle.sig": bytes(changed)})
    with pytest.raises(SignatureError):
        load_bundle(path, trusted=[public(LAB)])


@pytest.fixture(scope="module")
def signed_zip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("signed")
    write_zip(folder / "a.dpd", bundle_files() | {"bundle.sig": SIGNED})
    return (folder / "a.dpd").read_bytes()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bit_of_a_signed_file_opens_as_it_was_or_not_at_all(
    data: st.DataObject, signed_zip: bytes, tmp_path: Path
) -> None:
    """Unused zip fields (dates, versions) may change; content may not."""
    changed = bytearray(signed_zip)
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (tmp_path / "a.dpd").write_bytes(changed)
    try:
        bundle = load_bundle(tmp_path / "a.dpd", trusted=[public(LAB)])
    except BundleError:
        return
    assert bundle.signature.trusted
    assert bundle.files == parts()


BROKEN: list[bytes] = [
    b"",
    b"{}",
    b"[]",
    b"[" * 100_000,
    b"\xff",
    SIGNED.replace(b"ed25519", b"rsa"),
    SIGNED.replace(b'"sig"', b'"Sig"'),
    SIGNED[:-3] + b'", "more": 1}',
    SIGNED.replace(b'"key_id": "', b'"key_id": ["').replace(b'", "sig"', b'"], "sig"'),
    SIGNED + b" " * 5000,
    SIGNED.replace(b"{", b'{"alg": "rsa", '),  # one key twice
]


@pytest.mark.parametrize("raw", BROKEN, ids=lambda raw: repr(raw[:20]))
def test_what_is_no_signature_is_refused_whoever_is_trusted(raw: bytes, tmp_path: Path) -> None:
    path = as_folder(tmp_path, bundle_files() | {"bundle.sig": raw})
    with pytest.raises(SignatureError, match=r": bundle\.sig is not an ed25519 signature"):
        load_bundle(path, trusted=[])


@pytest.mark.parametrize(
    "change",
    [
        lambda bundle, path: write_audited(bundle, path, {"verdict": "PASS"}, "PASS"),
        lambda bundle, path: write_changed(bundle, path, {"engines/a/b.engine": b"1", "engines/a/b.json": b"{}"}),
    ],
    ids=["audit", "engines"],
)
def test_any_change_makes_an_unsigned_bundle(change: Callable[[Bundle, Path], str], tmp_path: Path) -> None:
    path = as_zip(tmp_path, bundle_files())
    sign_bundle(path, LAB, "lab")
    bundle = load_bundle(path, trusted=[public(LAB)])
    change(bundle, tmp_path / "new.dpd")
    new = load_bundle(tmp_path / "new.dpd", trusted=[public(LAB)])
    assert (new.signature.describe(), bundle.signature.trusted) == ("unsigned", True)


def test_an_audit_is_required(tmp_path: Path) -> None:
    bundle = load_bundle(_signed(tmp_path), trusted=[public(LAB)])
    with pytest.raises(RequirementError, match="this bundle is unaudited; run dpd audit") as raised:
        require_audit(bundle)
    assert raised.value.exit_code == 3
    for verdict, good in (("PASS", True), ("WARN", True), ("FAIL", False)):
        write_audited(bundle, tmp_path / verdict, {"verdict": verdict}, verdict)
        with pytest.raises(RequirementError, match="a trusted signature is required; this bundle is unsigned"):
            require_audit(load_bundle(tmp_path / verdict))
        sign_bundle(tmp_path / verdict, LAB, "lab")
        audited = load_bundle(tmp_path / verdict, trusted=[public(LAB)])
        if good:
            require_audit(audited)
        else:
            with pytest.raises(RequirementError, match="this bundle is FAIL"):
                require_audit(audited)


def test_the_trusted_folder(tmp_path: Path, own_config: Path) -> None:
    path = as_zip(tmp_path, bundle_files())
    sign_bundle(path, LAB, "lab")
    assert trusted_folder() == own_config / "dpd" / "trusted"
    assert not load_bundle(path).signature.trusted
    trusted_folder().mkdir(parents=True)
    _, key = write_signing_pair(tmp_path / "somebody")
    (tmp_path / "somebody.pub").rename(trusted_folder() / "somebody.pub")
    (trusted_folder() / "notes.txt").write_text("no key")
    for name in ("._somebody.pub", ".DS_Store", "Thumbs.db", "desktop.ini"):  # what other systems leave
        (trusted_folder() / name).write_bytes(b"\0\5\x16\7")
    assert trusted_keys() == (key,)
    assert not load_bundle(path).signature.trusted
    sign_bundle(path, read_signing_key(tmp_path / "somebody.key"), "somebody")
    assert load_bundle(path).signature.trusted_as == "somebody"
    assert not load_bundle(path, trusted=[public(LAB)]).signature.trusted, "keys that are named count alone"


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702, 0o720], ids=oct)
@pytest.mark.parametrize("place", ["lab.pub", ".", "..", "../.."])
def test_a_trusted_folder_where_others_may_write_is_refused(mode: int, place: str) -> None:
    """The folder of the key, and those above it: who may rename a folder may put another in its place."""
    trusted_folder().mkdir(parents=True)
    write_signing_pair(trusted_folder() / "lab")
    assert len(trusted_keys()) == 1
    path = (trusted_folder() / place).resolve()
    path.chmod(mode)
    with pytest.raises(InputError, match=f"{path}: others may write there.*chmod go-w {path}"):
        trusted_keys()
    path.chmod(0o700)
    assert len(trusted_keys()) == 1


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("place", ["lab.pub", ".", ".."])
def test_a_trusted_folder_of_another_user_is_refused(place: str) -> None:
    trusted_folder().mkdir(parents=True)
    write_signing_pair(trusted_folder() / "lab")
    path = (trusted_folder() / place).resolve()
    os.chown(path, 12345, -1)
    with pytest.raises(InputError, match=rf"{path}: it belongs to another user \(uid 12345\)"):
        trusted_keys()


def test_a_link_to_a_key_where_others_may_write_is_refused(tmp_path: Path) -> None:
    trusted_folder().mkdir(parents=True)
    open_to_all = tmp_path / "open"
    write_signing_pair(open_to_all / "lab")
    (trusted_folder() / "lab.pub").symlink_to(open_to_all / "lab.pub")
    assert len(trusted_keys()) == 1
    open_to_all.chmod(0o777)
    with pytest.raises(InputError, match=f"{open_to_all}: others may write there"):
        trusted_keys()


def test_a_broken_key_in_the_trusted_folder_is_named(tmp_path: Path) -> None:
    trusted_folder().mkdir(parents=True)
    (trusted_folder() / "broken.pub").write_text("no key")
    with pytest.raises(InputError, match=r"broken\.pub is not a public key"):
        load_bundle(_signed(tmp_path))


def _signed(folder: Path) -> Path:
    path = as_zip(folder, bundle_files())
    sign_bundle(path, LAB, "lab")
    return path


@pytest.mark.parametrize("passphrase", [None, "four words of some length"])
def test_a_new_pair(passphrase: str | None, tmp_path: Path) -> None:
    private, key = write_signing_pair(tmp_path / "new" / "lab", passphrase)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    loaded = load_pem_private_key(private.read_bytes(), passphrase.encode() if passphrase else None)
    shown = load_pem_public_key((tmp_path / "new" / "lab.pub").read_bytes())
    assert isinstance(loaded, Ed25519PrivateKey)
    assert isinstance(shown, Ed25519PublicKey)
    assert loaded.public_key().public_bytes_raw() == shown.public_bytes_raw() == key.raw
    assert read_public_key(tmp_path / "new" / "lab.pub") == key
    assert key.name == "lab"
    assert read_signing_key(private, passphrase).sign(b"x") == loaded.sign(b"x")
    before = private.read_bytes()
    with pytest.raises(InputError, match="never overwritten"):
        write_signing_pair(tmp_path / "new" / "lab")
    (tmp_path / "new" / "lab.pub").unlink()
    with pytest.raises(InputError, match="never overwritten"):
        write_signing_pair(tmp_path / "new" / "lab")
    assert private.read_bytes() == before


def test_a_new_pair_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "lab.pub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"lab\.pub exists, and keys are never overwritten"):
        write_signing_pair(tmp_path / "lab")
    assert not (tmp_path / "elsewhere").exists()


def test_the_name_of_a_key_file_cannot_speak_to_the_terminal(tmp_path: Path) -> None:
    write_signing_pair(tmp_path / "lab")
    renamed = (tmp_path / "lab.pub").rename(tmp_path / "l\x1b[2J\nab.pub")
    assert read_public_key(renamed).name == r"l\x1b[2J\nab"


def test_openssl_reads_our_keys(tmp_path: Path) -> None:
    """A second implementation signs and verifies with them."""
    private, _ = write_signing_pair(tmp_path / "lab")
    path = as_folder(tmp_path, bundle_files())
    sign_bundle(path, read_signing_key(private), "lab")
    _, signature = parse_signature((path / "bundle.sig").read_bytes())
    (tmp_path / "raw.sig").write_bytes(signature)
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(tmp_path / "lab.pub"), "-rawin"]
    command += ["-in", str(path / "bundle.json"), "-sigfile", str(tmp_path / "raw.sig")]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no openssl here")
    assert "Signature Verified Successfully" in done.stdout, done.stderr


def test_keys_that_are_none(tmp_path: Path) -> None:
    private, _ = write_signing_pair(tmp_path / "open")
    locked, _ = write_signing_pair(tmp_path / "locked", "secret")
    (tmp_path / "text").write_text("no key")
    (tmp_path / "large").write_bytes(bytes(2**16 + 1))
    with pytest.raises(InputError, match=r"locked\.key has a passphrase; give it with --passphrase-file"):
        read_signing_key(locked)
    with pytest.raises(InputError, match=r"locked\.key: the passphrase is wrong"):
        read_signing_key(locked, "other")
    with pytest.raises(InputError, match=r"open\.key has no passphrase"):
        read_signing_key(private, "secret")
    for path in (tmp_path / "text", tmp_path / "open.pub"):
        with pytest.raises(InputError, match="not a private key in PEM"):
            read_signing_key(path)
    for path in (tmp_path / "text", private):
        with pytest.raises(InputError, match="is not a public key in PEM"):
            read_public_key(path)
    with pytest.raises(InputError, match="too large"):
        read_public_key(tmp_path / "large")
    with pytest.raises(InputError, match="No such file"):
        read_public_key(tmp_path / "missing")
    with pytest.raises(InputError, match="an encryption key has 32 bytes"):
        read_encryption_key(private)
    secret = write_encryption_key(tmp_path / "site")
    assert len(read_encryption_key(secret)) == 32
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"a b\n", "a b"),
        (b"a b", "a b"),
        ("süß\r\n".encode(), "süß"),
        (b"\n", None),
        (b"a\nb\n", None),
        (b"\xff", None),
    ],
)
def test_passphrases(raw: bytes, text: str | None, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(raw)
    if text is None:
        with pytest.raises(InputError, match="a passphrase is one line of UTF-8 text"):
            read_passphrase(tmp_path / "secret")
    else:
        assert read_passphrase(tmp_path / "secret") == text


def test_a_damaged_bundle_is_not_signed(tmp_path: Path) -> None:
    path = as_folder(tmp_path, bundle_files() | {"classes.json": b"{}"})
    with pytest.raises(BundleError, match=r"classes\.json"):
        sign_bundle(path, LAB, "lab")
    assert not (path / "bundle.sig").exists()
