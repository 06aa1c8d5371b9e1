"""Encryption of bundles: the round trip, and every way in which a file can be wrong."""

import hashlib
import hmac
import os
import struct
import time
import tracemalloc
from functools import cache
from io import BytesIO
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpd_cli.options import key_of
from dpd_runtime.archive import (
    HEADER_BYTES,
    KEY_FILE,
    PASSPHRASE,
    TAG,
    Header,
    Key,
    asks_passphrase,
    decrypt,
    encrypt,
    new_header,
    parse_header,
    sealing_of,
)
from dpd_runtime.bundle import load_bundle
from dpd_runtime.errors import BundleError, DecryptionError, InputError
from dpd_runtime.sealing import decrypt_bundle, encrypt_bundle, sign_bundle, write_audited
from dpd_runtime.trust import PublicKey, read_key
from tests.unit.runtime.test_bundle import Store, as_zip, both, bundle_files, parts
from tests.unit.runtime.test_bundle_engines import ENGINE, PLAN, with_engine

KEY = bytes(range(32))
CHUNK = 2**12  # the smallest one that is read
WORDS = "correct horse battery staple"
quick = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def sealed(plain: bytes, key: Key = KEY, salt: bytes = b"s" * 32) -> bytes:
    """With the smallest chunks and the cheapest scrypt that are accepted."""
    locked = (PASSPHRASE, salt, CHUNK, 14, 8, 1)
    out = BytesIO()
    encrypt(BytesIO(plain), out, key, Header(KEY_FILE, salt, CHUNK) if isinstance(key, bytes) else Header(*locked))
    return out.getvalue()


def opened(folder: Path, content: bytes, key: Key | None = KEY) -> bytes:
    (folder / "a.dpde").write_bytes(content)
    return b"".join(decrypt(folder / "a.dpde", key))


def refused(folder: Path, content: bytes, match: str, key: Key | None = KEY) -> None:
    with pytest.raises(DecryptionError, match=match) as raised:
        opened(folder, content, key)
    assert raised.value.exit_code == 3
    assert "\n" not in str(raised.value)


def independent(content: bytes, key: bytes | str) -> bytes:
    """The page bundle-format.md, read with hashlib, hmac and one AEAD call: no line of ours, no HKDF class."""
    magic, version, kind, chunk, cost, r, p, zero, salt = struct.unpack("<6sBBIBBBB32s", content[:48])
    assert (magic, version, zero) == (b"DPDENC", 1, 0)
    if kind == 1:
        assert isinstance(key, str)
        master = hashlib.scrypt(key.encode(), salt=salt, n=2**cost, r=r, p=p, dklen=32, maxmem=2**29)
    else:
        assert isinstance(key, bytes)
        master = key
    extracted = hmac.digest(salt, master, "sha256")
    info = b"dpd-bundle-encryption" + content[:48]
    first = hmac.digest(extracted, info + b"\x01", "sha256")
    second = hmac.digest(extracted, first + info + b"\x02", "sha256")
    assert content[48:80] == second
    pieces = [content[i : i + chunk + 16] for i in range(80, len(content), chunk + 16)]
    plain = b""
    for number, piece in enumerate(pieces):
        nonce = number.to_bytes(11, "big") + (b"\x01" if number == len(pieces) - 1 else b"\x00")
        plain += AESGCM(first).decrypt(nonce, piece, content[:80])
    return plain


sizes = st.one_of(st.integers(1, 40), st.integers(CHUNK - 2, CHUNK + 2), st.integers(1, 5 * CHUNK), st.just(3 * CHUNK))


@quick
@given(size=sizes, key=st.binary(min_size=32, max_size=32), salt=st.binary(min_size=32, max_size=32))
def test_it_comes_back_and_another_reader_agrees(size: int, key: bytes, salt: bytes, tmp_path: Path) -> None:
    plain = (b"0123456789" * (size // 10 + 1))[:size]
    content = sealed(plain, key, salt)
    assert len(content) == HEADER_BYTES + size + TAG * -(-size // CHUNK)
    assert opened(tmp_path, content, key) == plain == independent(content, key)


@pytest.mark.parametrize("words", [WORDS, "süß 🛰", "x"])
def test_a_passphrase(words: str, tmp_path: Path) -> None:
    content = sealed(b"content" * 1000, words)
    assert opened(tmp_path, content, words) == b"content" * 1000 == independent(content, words)
    refused(tmp_path, content, "the key or passphrase is wrong", words + "x")
    refused(tmp_path, content, "encrypted with a passphrase: pass --key FILE", KEY)
    refused(tmp_path, content, "encrypted with a passphrase: pass --key FILE", None)


def test_the_independent_reader_can_fail() -> None:
    content = bytearray(sealed(b"content"))
    content[-1] ^= 1
    with pytest.raises(InvalidTag):
        independent(bytes(content), KEY)


def test_another_key_and_no_key(tmp_path: Path) -> None:
    content = sealed(b"content")
    refused(tmp_path, content, "the key or passphrase is wrong", bytes(32))
    refused(tmp_path, content, "encrypted with a key file: pass --key FILE", None)
    refused(tmp_path, content, "encrypted with a key file: pass --key FILE", WORDS)
    with pytest.raises(InputError, match="the key has 31 bytes"):
        opened(tmp_path, content, KEY[:31])
    for key, match in (("", "the passphrase is empty"), (b"", "the key has 0 bytes")):
        with pytest.raises(InputError, match=match):
            encrypt(BytesIO(b"x"), BytesIO(), key)
    with pytest.raises(InputError, match="the file to encrypt is empty"):
        encrypt(BytesIO(), BytesIO(), KEY)


PLAIN = bytes(i % 251 for i in range(4 * CHUNK + 100))


@cache
def whole() -> bytes:
    return sealed(PLAIN)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bit(data: st.DataObject, tmp_path: Path) -> None:
    end = data.draw(st.sampled_from([HEADER_BYTES, len(whole())]))
    changed = bytearray(whole())
    changed[data.draw(st.integers(0, end - 1))] ^= 1 << data.draw(st.integers(0, 7))
    refused(tmp_path, bytes(changed), "a.dpde")


@quick
@given(length=st.integers(0, len(PLAIN) + HEADER_BYTES + 5 * TAG - 1))
def test_any_truncation(length: int, tmp_path: Path) -> None:
    refused(tmp_path, whole()[:length], "a.dpde")


def chunks(content: bytes) -> list[bytes]:
    return [content[i : i + CHUNK + TAG] for i in range(HEADER_BYTES, len(content), CHUNK + TAG)]


def test_chunks_stay_where_they_are(tmp_path: Path) -> None:
    header, (a, b, c, d, e) = whole()[:HEADER_BYTES], chunks(whole())
    assert opened(tmp_path, header + a + b + c + d + e) == PLAIN
    orders = [
        (b, a, c, d, e),
        (a, c, d, e),
        (a, b, c, d),
        (a, b, c),
        (a, a, b, c, d, e),
        (a, b, c, e),
        (a, b, c, d, e, e),
    ]
    orders += [(e,), (), (a, b, c, d, e, b"x"), (a, b, c, d, e, bytes(TAG))]
    for order in orders:
        refused(tmp_path, header + b"".join(order), "a part of it was changed, moved or cut off|ends after its header")


def test_chunks_of_another_file_do_not_fit(tmp_path: Path) -> None:
    """The same key, the same place, and even the same plain bytes."""
    other = sealed(PLAIN, salt=b"t" * 32)
    mixed = [whole()[:HEADER_BYTES], *chunks(whole())]
    mixed[2] = chunks(other)[1]
    refused(tmp_path, b"".join(mixed), "a part of it was changed")
    refused(tmp_path, other[:HEADER_BYTES] + whole()[HEADER_BYTES:], "a part of it was changed")


def fields(**changes: int) -> bytes:
    values = {"version": 1, "kind": 1, "chunk": CHUNK, "cost": 14, "r": 8, "p": 1, "zero": 0} | changes
    return struct.pack("<6sBBIBBBB32s", b"DPDENC", *values.values(), b"s" * 32) + bytes(32)


HOSTILE = [{"cost": cost} for cost in (0, 13, 19, 30, 63, 255)] + [{"r": r} for r in (0, 1, 9, 255)]
HOSTILE += [{"p": p} for p in (0, 5, 255)] + [{"zero": 1}, {"kind": 2}, {"kind": 0}, {"cost": 18, "p": 255}]
HOSTILE += [{"chunk": chunk} for chunk in (0, 1, CHUNK - 1, 2**24 + 1, 2**32 - 1)]


@pytest.mark.parametrize("changes", HOSTILE, ids=str)
def test_hostile_parameters_cost_neither_memory_nor_time(changes: dict[str, int], tmp_path: Path) -> None:
    (tmp_path / "a.dpde").write_bytes(fields(**changes) + bytes(1000))
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(DecryptionError, match="header is damaged or exceeds the limits"):
            next(decrypt(tmp_path / "a.dpde", WORDS))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.process_time() - started < 1
    assert most < 2**20


def test_the_largest_scrypt_that_is_read_has_a_bound() -> None:
    """RFC 7914: 128·r·N bytes. Larger parameters in the header are refused."""
    for cost, p in ((14, 1), (18, 4)):
        header = parse_header(Path("a"), fields(cost=cost, p=p))
        assert 128 * header.block_size * 2**header.cost <= 2**28
    assert 128 * new_header(WORDS).block_size * 2 ** new_header(WORDS).cost == 2**27
    assert new_header(KEY).salt != new_header(KEY).salt


def test_what_comes_from_a_later_version(tmp_path: Path) -> None:
    refused(tmp_path, fields(version=2) + bytes(100), r"version 2, this runtime reads 1; install a newer dpd-distill")


LAB = Ed25519PrivateKey.from_private_bytes(KEY)
TRUSTED = (PublicKey("lab", LAB.public_key().public_bytes_raw()),)


@both
@pytest.mark.parametrize("key", [KEY, WORDS], ids=["file", "words"])
def test_a_bundle_opens_from_memory_with_its_signature_inside(store: Store, key: Key, tmp_path: Path) -> None:
    path = store(tmp_path, bundle_files(with_engine()))
    sign_bundle(path, LAB, "lab")
    plain = load_bundle(path)
    encrypt_bundle(path, tmp_path / "a.dpde", key)
    before = sorted(tmp_path.rglob("*"))
    bundle = load_bundle(tmp_path / "a.dpde", key, TRUSTED)
    assert (bundle.hash, bundle.files) == (plain.hash, plain.files)
    assert bundle.signature.trusted_as == "lab"
    assert bundle.read_engine(ENGINE) == PLAN
    assert sorted(tmp_path.rglob("*")) == before, "something was written"
    content = (tmp_path / "a.dpde").read_bytes()
    assert [name for name in (*parts(), "bundle.json") if name.encode() in content] == []
    assert str(key) not in repr(bundle)
    decrypt_bundle(tmp_path / "a.dpde", tmp_path / "back.dpd", key)
    assert load_bundle(tmp_path / "back.dpd", trusted=TRUSTED).signature.trusted
    if path.is_file():
        assert (tmp_path / "back.dpd").read_bytes() == path.read_bytes()


def test_what_does_not_go_with_encryption(tmp_path: Path) -> None:
    path, out = as_zip(tmp_path, bundle_files()), tmp_path / "a.dpde"
    with pytest.raises(InputError, match=r"tiny\.dpd is not encrypted, but a key was given"):
        load_bundle(path, KEY)
    with pytest.raises(InputError, match="no key to encrypt it with; give --key FILE"):
        encrypt_bundle(path, out, None)
    encrypt_bundle(path, out, KEY)
    with pytest.raises(DecryptionError, match=r"a\.dpde is encrypted with a key file: pass --key FILE"):
        load_bundle(out)
    with pytest.raises(InputError, match="already encrypted"):
        encrypt_bundle(out, tmp_path / "b.dpde", KEY)
    with pytest.raises(
        InputError, match="the signature is part of the content; run dpd decrypt, dpd sign and dpd encrypt"
    ):
        sign_bundle(out, LAB, "lab")
    with pytest.raises(InputError, match="its changed copy would not be; run dpd decrypt first"):
        write_audited(load_bundle(out, KEY), tmp_path / "new.dpd", {"verdict": "PASS"}, "PASS")
    with pytest.raises(InputError, match=r"tiny\.dpd is not encrypted"):
        decrypt_bundle(path, tmp_path / "b.dpd", KEY)
    with pytest.raises(BundleError, match="no such file"):
        decrypt_bundle(tmp_path / "none", tmp_path / "b.dpd", KEY)
    for target in (path, out, tmp_path):
        with pytest.raises(InputError, match="exists; choose another --out"):
            encrypt_bundle(path, target, KEY, overwrite=target == path)
    with pytest.raises(InputError, match="does not exist"):
        encrypt_bundle(path, tmp_path / "no" / "a.dpde", KEY)
    with pytest.raises(DecryptionError):
        decrypt_bundle(out, tmp_path / "b.dpd", bytes(32))
    (tmp_path / "cut.dpde").write_bytes(out.read_bytes()[:-1])
    with pytest.raises(DecryptionError):
        decrypt_bundle(tmp_path / "cut.dpde", tmp_path / "b.dpd", KEY)
    with pytest.raises(BundleError):  # what is inside is checked as ever
        encrypt_bundle(tmp_path / "cut.dpde.none", tmp_path / "b.dpde", KEY)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.dpde", "cut.dpde", "tiny.dpd"]
    encrypt_bundle(path, out, WORDS, overwrite=True)
    assert load_bundle(out, WORDS).hash == load_bundle(path).hash


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert sealing_of(tmp_path / "pipe") is None
    with pytest.raises(BundleError, match="pipe: a pipe or device cannot be read as a bundle; save it"):
        load_bundle(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (bytes(range(200, 232)), bytes(range(200, 232))),
        (b"\x00" * 32, b"\x00" * 32),
        (b"correct horse\n", "correct horse"),
        (b"thirty-two letters are a phrase!", "thirty-two letters are a phrase!"),
        (b"thirty-one and the end of line\r\n", "thirty-one and the end of line"),
        ("ü".encode() * 16, "ü" * 16),
    ],
)
def test_a_file_says_whether_it_is_a_key_or_a_passphrase(content: bytes, key: bytes | str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    assert read_key(tmp_path / "file") == key


@pytest.mark.parametrize("content", [b"", b"two\nlines\n", bytes([255] * 31), bytes([255] * 33)])
def test_what_is_neither_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError, match="file: holds neither an encryption key, 32 bytes"):
        read_key(tmp_path / "file")


@pytest.mark.parametrize("words", [b"a passphrase\twith a tab, of 32 b", b"thirty-two letters are a phrase!", b"few"])
def test_the_header_says_whether_a_file_is_a_key_or_a_passphrase(words: bytes, tmp_path: Path) -> None:
    """What encrypted a bundle opens it, however its bytes look."""
    assert len(words) in (32, 3)
    path = as_zip(tmp_path, bundle_files())
    (tmp_path / "words").write_bytes(words)
    (tmp_path / "key").write_bytes(words.ljust(32))
    for name, key in (("words", words.decode()), ("key", words.ljust(32))):
        encrypt_bundle(path, tmp_path / f"{name}.dpde", key)
        assert asks_passphrase(tmp_path / f"{name}.dpde") is (name == "words")
        assert key_of(tmp_path / f"{name}.dpde", tmp_path / name) == key
