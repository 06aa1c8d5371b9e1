"""Bundles encrypted to a site's public key: as the program age makes and opens them, and every way to be wrong."""

import contextlib
import errno
import io
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpd_cli.options import key_of
from dpd_runtime.age import decrypt, encrypt, read_identity, read_recipients, write_age_pair
from dpd_runtime.archive import sealing_of
from dpd_runtime.bundle import load_bundle
from dpd_runtime.errors import DecryptionError, DiskError, InputError, MissingExtraError
from dpd_runtime.sealing import decrypt_bundle, encrypt_bundle, require_encrypted
from dpd_runtime.trust import read_key
from tests.unit.runtime.test_bundle import as_zip, bundle_files

PLAIN = bytes(range(256)) * 600  # more than two chunks of age
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
needs_age = pytest.mark.skipif(shutil.which("age") is None, reason="the program age is not installed")


@pytest.fixture
def site(tmp_path: Path) -> tuple[Path, str]:
    """The identity's file, and the recipient."""
    pytest.importorskip("pyrage", reason="pyrage is not installed")
    return write_age_pair(tmp_path / "site")


def sealed(recipient: str, plain: bytes = PLAIN) -> bytes:
    out = io.BytesIO()
    encrypt(io.BytesIO(plain), out, [recipient])
    return out.getvalue()


@pytest.fixture
def content(site: tuple[Path, str]) -> bytes:
    """Made once for all examples: age's files differ each time, in their size too."""
    return sealed(site[1])


def opened(folder: Path, content: bytes, key: bytes | str | None) -> bytes:
    (folder / "a.age").write_bytes(content)
    out = io.BytesIO()
    decrypt(folder / "a.age", key, out)
    return out.getvalue()


def refused(folder: Path, content: bytes, key: bytes | str | None, match: str) -> None:
    with pytest.raises(DecryptionError, match=match) as raised:
        opened(folder, content, key)
    assert raised.value.exit_code == 3
    assert "\n" not in str(raised.value)


def test_a_bundle_goes_to_the_site_and_no_secret_with_it(site: tuple[Path, str], tmp_path: Path) -> None:
    secret, recipient = site
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    plain = as_zip(tmp_path, bundle_files())
    packed = encrypt_bundle(plain, tmp_path / "site.age", None, recipients=read_recipients(str(tmp_path / "site.pub")))
    assert sealing_of(tmp_path / "site.age") == "age"
    bundle = load_bundle(tmp_path / "site.age", key_of(tmp_path / "site.age", secret))
    assert bundle.hash == packed.hash == load_bundle(plain).hash
    require_encrypted(tmp_path / "site.age")
    decrypt_bundle(tmp_path / "site.age", tmp_path / "back.dpd", read_identity(secret))
    assert (tmp_path / "back.dpd").read_bytes() == plain.read_bytes()
    with pytest.raises(InputError, match="already encrypted"):
        encrypt_bundle(tmp_path / "site.age", tmp_path / "again.age", None, recipients=[recipient])
    with pytest.raises(InputError, match="never overwritten"):
        write_age_pair(tmp_path / "site")


@needs_age
def test_the_program_age_opens_it_and_we_open_its_files(site: tuple[Path, str], tmp_path: Path) -> None:
    secret, recipient = site
    (tmp_path / "ours.age").write_bytes(sealed(recipient))
    assert subprocess.check_output(["age", "-d", "-i", secret, tmp_path / "ours.age"]) == PLAIN
    subprocess.run(["age-keygen", "-o", tmp_path / "theirs.key"], check=True, capture_output=True)
    theirs = subprocess.check_output(["age-keygen", "-y", tmp_path / "theirs.key"], text=True).strip()
    to_both = subprocess.check_output(["age", "-r", theirs, "-r", recipient], input=PLAIN)
    for identity in (tmp_path / "theirs.key", secret):
        assert opened(tmp_path, to_both, read_identity(identity)) == PLAIN
    assert subprocess.check_output(["age-keygen", "-y", secret], text=True).strip() == recipient


@quick
@given(data=st.data())
def test_no_changed_file_opens(site: tuple[Path, str], content: bytes, tmp_path: Path, data: st.DataObject) -> None:
    where = data.draw(st.integers(0, len(content) - 1))
    changed = data.draw(
        st.sampled_from(
            (
                content[:where],
                content[:where] + bytes([content[where] ^ data.draw(st.integers(1, 255))]) + content[where + 1 :],
                content + content[where:],
                content[:where] + content[where + 1 :],
            )
        )
    )
    with pytest.raises(DecryptionError):
        opened(tmp_path, changed, read_identity(site[0]))


def test_keys_that_do_not_open_it(site: tuple[Path, str], tmp_path: Path) -> None:
    other, _ = write_age_pair(tmp_path / "other")
    content = sealed(site[1])
    refused(
        tmp_path,
        content,
        read_identity(other),
        "encrypted for others; ask its sender to encrypt it to this site's .pub file",
    )
    refused(tmp_path, content, None, "encrypted to a site's public key: pass --key FILE")
    refused(tmp_path, content, b"k" * 32, "dpd keygen --age")
    refused(tmp_path, content, "correct horse battery staple", "dpd keygen --age")
    refused(tmp_path, content, "AGE-SECRET-KEY-1AAAA", "the identity is damaged")
    pyrage = pytest.importorskip("pyrage")
    refused(tmp_path, pyrage.passphrase.encrypt(PLAIN, "words"), read_identity(site[0]), "encrypted for others")


def test_a_long_header_costs_no_time(site: tuple[Path, str], tmp_path: Path) -> None:
    """Reading two hundred thousand recipients takes pyrage minutes."""
    stanza = b"-> X25519 " + b"A" * 43 + b"\n" + b"A" * 43 + b"\n"
    content = b"age-encryption.org/v1\n" + stanza * 200_000 + b"--- " + b"A" * 43 + b"\n" + b"x" * 100
    began = time.monotonic()
    refused(tmp_path, content, read_identity(site[0]), "its header has no end within 65536 bytes")
    assert time.monotonic() - began < 5
    end = b"--- " + b"A" * 43 + b"\n" + b"x" * 100
    shortest = b"age-encryption.org/v1\n" + b"-> a\n\n" * 10_000 + end
    began = time.monotonic()
    refused(tmp_path, shortest, read_identity(site[0]), "its header has 10000 stanzas, more than 600")
    most = b"age-encryption.org/v1\n" + b"-> a\n\n" * 600 + end
    refused(tmp_path, most, read_identity(site[0]), "encrypted for others")
    assert time.monotonic() - began < 2


def test_what_is_encrypted_for_many_opens_at_each(site: tuple[Path, str], tmp_path: Path) -> None:
    pyrage = pytest.importorskip("pyrage")
    others = [str(pyrage.x25519.Identity.generate().to_public()) for _ in range(500)]
    out = io.BytesIO()
    encrypt(io.BytesIO(b"bundle"), out, [*others[:499], site[1]])
    assert opened(tmp_path, out.getvalue(), read_identity(site[0])) == b"bundle"
    with pytest.raises(InputError, match=r"^501 recipients, and one file is for 500 at most"):
        encrypt(io.BytesIO(b"bundle"), io.BytesIO(), [*others, site[1]])


def test_a_right_key_is_not_blamed_for_the_wrong_bundle(site: tuple[Path, str], tmp_path: Path) -> None:
    plain = as_zip(tmp_path, bundle_files())
    with pytest.raises(InputError, match="is not encrypted, but a key was given"):
        key_of(plain, site[0])
    assert key_of(tmp_path / "typo.age", site[0]) is None  # opening it says that there is none


def test_files_of_keys(site: tuple[Path, str], tmp_path: Path) -> None:
    secret, recipient = site
    (tmp_path / "all.txt").write_text(f"# sites\n\n{recipient}\n  {recipient}  \n")
    assert read_recipients(str(tmp_path / "all.txt")) == (recipient, recipient)
    assert read_recipients(recipient) == (recipient,)
    for given_to, match in (
        (str(secret), "holds a secret identity; give the site's public key"),
        (str(tmp_path / "none.pub"), "No such file"),
    ):
        with pytest.raises(InputError, match=match):
            read_recipients(given_to)
    with pytest.raises(InputError, match=r"^--to: that is a secret identity") as raised:
        read_recipients("AGE-SECRET-KEY-1QQQ")
    assert "QQQ" not in str(raised.value)
    (tmp_path / "age1.pub").write_text(recipient)
    with contextlib.chdir(tmp_path):
        assert read_recipients("age1.pub") == (recipient,)
    longer = "age1pq1" + "q" * 2000  # of a newer type
    assert read_recipients(longer) == (longer,)
    for text, match in (("", "no recipient in the file"), ("my words", "bad.pub: entry 1 is no recipient of age")):
        (tmp_path / "bad.pub").write_text(text)
        with pytest.raises(InputError, match=match):
            read_recipients(str(tmp_path / "bad.pub"))
    with pytest.raises(InputError, match=f"^{recipient}x: no recipient of age of type X25519"):
        encrypt(io.BytesIO(PLAIN), io.BytesIO(), [f"{recipient}x"])
    with pytest.raises(InputError, match="holds no identities of age"):
        read_identity(tmp_path / "site.pub")
    (tmp_path / "two.key").write_text(2 * secret.read_text())
    with pytest.raises(InputError, match="holds 2 identities of age"):
        read_identity(tmp_path / "two.key")
    (tmp_path / "raw.key").write_bytes(bytes(range(128, 160)))
    with pytest.raises(InputError, match="is no text file"):
        read_identity(tmp_path / "raw.key")


class FullDisk(io.RawIOBase):
    def writable(self) -> bool:
        return True

    def write(self, content: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_no_changed_file(site: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "a.age").write_bytes(sealed(site[1]))
    with pytest.raises(OSError, match="No space left"):
        decrypt(tmp_path / "a.age", read_identity(site[0]), FullDisk())  # type: ignore[arg-type]
    with pytest.raises(DiskError, match="No space left"):
        encrypt(io.BytesIO(PLAIN), FullDisk(), [site[1]])  # type: ignore[arg-type]


class Interrupted(FullDisk):
    def write(self, content: object) -> int:
        raise KeyboardInterrupt


def test_an_interrupt_stays_one(site: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "a.age").write_bytes(sealed(site[1]))
    with pytest.raises(KeyboardInterrupt):
        encrypt(io.BytesIO(PLAIN), Interrupted(), [site[1]])  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        decrypt(tmp_path / "a.age", read_identity(site[0]), Interrupted())  # type: ignore[arg-type]


def test_no_key_of_age_becomes_a_passphrase(site: tuple[Path, str], tmp_path: Path) -> None:
    """A public key would, and everyone who has it could open the file."""
    plain = as_zip(tmp_path, bundle_files())
    for words in (read_key(tmp_path / "site.pub"), read_identity(site[0])):
        with pytest.raises(InputError, match=r"a key of age is no passphrase; give the site's .pub file with --to"):
            encrypt_bundle(plain, tmp_path / "site.dpde", words)
    with pytest.raises(InputError, match=r"holds neither an encryption key.*to encrypt with age, give the site's .pub"):
        read_key(site[0])
    assert not (tmp_path / "site.dpde").exists()


def test_wrong_recipients_are_named_before_the_bundle_is_opened(site: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "damaged.dpd").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"^age1x: no recipient of age"):
        encrypt_bundle(tmp_path / "damaged.dpd", tmp_path / "out.age", None, recipients=["age1x"])


def test_without_pyrage_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyrage", None)
    with pytest.raises(MissingExtraError, match=r"pyrage is not installed: pip install .*\[age\]"):
        write_age_pair(tmp_path / "site")
