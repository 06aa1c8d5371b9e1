"""Rollback and expiry: a site that saw a newer signed bundle refuses an older one of the same name."""

import datetime
import json
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from dpd_cli.terminal import freshness_lines
from dpd_runtime import trust
from dpd_runtime.bundle import Bundle, load_bundle
from dpd_runtime.errors import BundleError, InputError, OldBundleError
from dpd_runtime.files import FileLock
from dpd_runtime.manifest import MAX_SERIAL, is_day
from dpd_runtime.sealing import sign_bundle, write_changed
from dpd_runtime.trust import PublicKey, trusted_folder
from tests.unit.runtime.test_bundle import Store, as_zip, both, bundle_files

LAB = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))


@pytest.fixture(autouse=True)
def site(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site that has seen no bundle yet."""
    folder = tmp_path_factory.mktemp("site")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    return folder


def signed(
    folder: Path,
    serial: int | None = None,
    *,
    key: Ed25519PrivateKey = LAB,
    expires: str = "",
    store: Store = as_zip,
    name: str = "tiny",
) -> Path:
    path = store(folder, bundle_files(name=name))
    sign_bundle(path, key, "lab", serial=serial, expires=expires)
    return path


def opened(path: Path, **options: bool) -> Bundle:
    keys = [PublicKey("lab", key.public_key().public_bytes_raw()) for key in (LAB, OTHER)]
    return load_bundle(path, trusted=keys, **options)


@both
def test_an_older_bundle_is_refused_once_a_newer_one_was_seen(store: Store, tmp_path: Path) -> None:
    assert opened(signed(tmp_path, 7, store=store)).remembered
    assert opened(signed(tmp_path, 7, store=store)).manifest.serial == 7, "the same one again"
    assert opened(signed(tmp_path, 8, store=store)).remembered
    old = signed(tmp_path, 7, store=store)
    with pytest.raises(
        OldBundleError, match=r"its serial is 7, and this site has seen serial 8 .* --allow-older"
    ) as raised:
        opened(old)
    assert raised.value.exit_code == 3
    older = opened(old, allow_older=True)
    assert older.manifest.serial == 7
    assert freshness_lines(older) == ["serial 7, older than 8, which stays the newest of this name here"]
    with pytest.raises(OldBundleError):
        opened(old)


def test_what_is_remembered_is_of_one_name_and_one_key(tmp_path: Path) -> None:
    opened(signed(tmp_path, 8))
    opened(signed(tmp_path, 2, name="another"))
    opened(signed(tmp_path, 3, key=OTHER))
    for older in ({"name": "another"}, {"key": OTHER}):
        with pytest.raises(OldBundleError):
            opened(signed(tmp_path, 1, **older))  # type: ignore[arg-type]
    found = sorted(json.loads(path.read_text())["serial"] for path in (trusted_folder() / "serials").iterdir())
    assert found == [2, 3, 8]


def test_an_unsigned_bundle_can_make_nothing_old(tmp_path: Path) -> None:
    """Otherwise anybody could lock a site out with one bundle of a huge serial."""
    unknown = signed(tmp_path, MAX_SERIAL)
    assert not load_bundle(unknown, trusted=[]).remembered
    assert not trusted_folder().exists()
    assert opened(signed(tmp_path, 1)).remembered


def test_a_signed_bundle_of_before_serials_is_older_than_any(tmp_path: Path) -> None:
    from dpd_runtime.trust import signature_json

    files = bundle_files()
    key = PublicKey("lab", LAB.public_key().public_bytes_raw())
    path = as_zip(tmp_path, files | {"bundle.sig": signature_json(key, LAB.sign(files["bundle.json"]))})
    assert not opened(path).remembered
    opened(signed(tmp_path / "..", 1))
    with pytest.raises(OldBundleError, match="its serial is 0"):
        opened(path)


def test_by_default_a_later_signature_is_newer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = sign_bundle(as_zip(tmp_path, bundle_files()), LAB, "lab")
    monkeypatch.setattr("dpd_runtime.sealing.time.time", lambda: float(first.serial + 1))
    assert sign_bundle(as_zip(tmp_path, bundle_files()), LAB, "lab").serial == first.serial + 1


def test_an_expired_bundle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    day = datetime.date.fromisoformat(trust.today())
    assert abs(day - datetime.datetime.now(datetime.UTC).date()) <= datetime.timedelta(1)
    path = signed(tmp_path, 1, expires=day.isoformat())
    assert opened(path).manifest.expires == day.isoformat(), "the last day counts"
    monkeypatch.setattr(trust, "today", lambda: (day + datetime.timedelta(1)).isoformat())
    with pytest.raises(OldBundleError, match=f"it expired on {day}, today is .* --allow-older"):
        opened(path)
    assert opened(path, allow_older=True).remembered


def test_a_site_that_cannot_write_says_so_and_works(tmp_path: Path) -> None:
    trusted_folder().mkdir(parents=True)
    (trusted_folder() / "serials").write_text("a file where the folder should be: nobody can write there, root neither")
    bundle = opened(signed(tmp_path, 1))
    assert (bundle.signature.trusted, bundle.remembered) == (True, False)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"serial": -1}', b'{"serial": "9"}', b"\xff", b"[" * 5000])
def test_a_damaged_memory_is_not_taken_for_an_empty_one(content: bytes, tmp_path: Path) -> None:
    path = signed(tmp_path, 8)
    opened(path)
    (memory,) = (trusted_folder() / "serials").iterdir()
    memory.write_bytes(content)
    with pytest.raises(
        InputError, match="no serial can be read; if you delete it, this site forgets the newest serial"
    ):
        opened(path)


def test_a_newer_serial_of_another_process_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both saw serial 1. The other one writes 6 while this one waits to write 5."""
    opened(signed(tmp_path, 1))
    (memory,) = (trusted_folder() / "serials").iterdir()
    other, tried, acquire = FileLock(memory.with_suffix(".lock")), threading.Event(), FileLock.acquire
    assert other.acquire()

    def told(lock: FileLock, **options: bool) -> bool:
        tried.set()
        return acquire(lock, **options)

    monkeypatch.setattr(FileLock, "acquire", told)
    path = signed(tmp_path, 5)
    this = threading.Thread(target=opened, args=[path])
    this.start()
    assert tried.wait(60)
    memory.write_text(json.dumps(json.loads(memory.read_text()) | {"serial": 6}))
    other.release()
    this.join(60)
    assert not this.is_alive()
    assert json.loads(memory.read_text())["serial"] == 6
    assert list(memory.parent.iterdir()) == [memory]


@pytest.mark.parametrize("mask", [0o000, 0o002, 0o077], ids=oct)
def test_a_memory_that_a_site_made_itself_is_accepted_for_any_umask(
    mask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = signed(tmp_path, 8)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "new" / "config"))
    before = os.umask(mask)
    try:
        assert opened(path).remembered
        assert opened(path).remembered
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0


def test_in_a_folder_of_others_nothing_is_remembered(site: Path, tmp_path: Path) -> None:
    site.chmod(0o777)
    assert not opened(signed(tmp_path, 8)).remembered
    assert list(site.rglob("*.json")) == []
    assert opened(signed(tmp_path, 8)).manifest.serial == 8, "the second use works, too"


def test_a_memory_where_others_may_write_is_refused(tmp_path: Path) -> None:
    path = signed(tmp_path, 8)
    opened(path)
    (memory,) = (trusted_folder() / "serials").iterdir()
    memory.chmod(0o666)
    with pytest.raises(InputError, match="others may write there"):
        opened(path)


@pytest.mark.parametrize("serial", [0, -1, MAX_SERIAL + 1])
def test_a_serial_out_of_range_is_not_signed(serial: int, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"--serial {serial}: give a whole number"):
        signed(tmp_path, serial)
    path = as_zip(tmp_path, bundle_files(serial=serial or -1))
    with pytest.raises(BundleError, match=f"serial is {serial or -1}, it must be 0"):
        load_bundle(path)


@pytest.mark.parametrize(
    "day", ["tomorrow", "2027-2-1", "2027-02-30", "20270201", "２０２７-01-01", "2027-01-01T00:00"]
)
def test_what_is_no_day_is_not_signed(day: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give a day as YYYY-MM-DD"):
        signed(tmp_path, 1, expires=day)


def test_a_day_that_is_past_is_not_signed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--expires 2020-01-01 is past"):
        signed(tmp_path, 1, expires="2020-01-01")


@given(st.dates())
def test_every_day_of_the_calendar_is_one(day: datetime.date) -> None:
    assert is_day(day.isoformat())


def test_a_changed_copy_is_signed_as_a_newer_one(tmp_path: Path) -> None:
    first = opened(signed(tmp_path, 5))
    write_changed(first, tmp_path / "new.dpd", {})
    assert not load_bundle(tmp_path / "new.dpd").signature.trusted
    sign_bundle(tmp_path / "new.dpd", LAB, "lab", serial=6)
    assert opened(tmp_path / "new.dpd").remembered


NOW = int(datetime.datetime(2027, 3, 1, 12, tzinfo=datetime.UTC).timestamp())
YEARS = 365 * 86_400


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets this machine's clock, and the dates of files that are signed to NOW."""
    monkeypatch.setenv("XDG_STATE_HOME", str(trusted_folder().parent / "state"))
    monkeypatch.setattr("dpd_runtime.sealing._written", lambda path: NOW)

    def set_to(seconds: float) -> None:
        monkeypatch.setattr("time.time", lambda: seconds)

    set_to(NOW)
    return set_to


def test_a_signers_clock_that_was_ahead_locks_no_site_out(tmp_path: Path, clock: Callable[[float], None]) -> None:
    ahead = signed(tmp_path / "..", NOW + 4 * YEARS)
    bundle = opened(ahead)
    assert (bundle.signature.trusted, bundle.remembered) == (True, False)
    (line,) = freshness_lines(bundle)
    assert "not remembered, as it was signed on 2031-02-28 by the signer's clock, and this machine's says 2027" in line
    clock(NOW + 3600)
    assert opened(signed(tmp_path, NOW + 3000)).remembered, "the next one, signed after the clock was put right"
    assert not opened(ahead).remembered


def test_a_day_between_two_clocks_is_usual(tmp_path: Path, clock: Callable[[float], None]) -> None:
    assert opened(signed(tmp_path, NOW + 86_000)).remembered
    assert not opened(signed(tmp_path, NOW + 87_000)).remembered


@pytest.mark.parametrize("serial", [20270301, 2027030112000, MAX_SERIAL])
def test_a_number_of_the_signers_own_is_no_time(serial: int, tmp_path: Path, clock: Callable[[float], None]) -> None:
    assert opened(signed(tmp_path, serial)).remembered


@pytest.mark.parametrize("seconds", [0.0, 9 * 365 * 86_400.0, NOW - 0.5 * YEARS])
def test_a_site_whose_battery_is_dead_is_neither_locked_out_nor_rolled_back(
    seconds: float, tmp_path: Path, clock: Callable[[float], None]
) -> None:
    """The clock shows 1970, 1978, or a day before this version: it is surely wrong and decides nothing."""
    clock(seconds)
    assert opened(signed(tmp_path, NOW, expires="2027-06-01")).remembered
    assert opened(signed(tmp_path, NOW + 5)).remembered
    old = signed(tmp_path, NOW)
    with pytest.raises(OldBundleError, match=f"its serial is {NOW}, and this site has seen serial {NOW + 5}"):
        opened(old)


def test_a_memory_of_the_future_counts_and_the_way_out_is_said(tmp_path: Path, clock: Callable[[float], None]) -> None:
    """Another clock now must not roll a site back; version 0.2 remembered such serials."""
    clock(NOW + 4 * YEARS)
    opened(signed(tmp_path, NOW + 4 * YEARS))
    clock(NOW)
    (memory,) = (trusted_folder() / "serials").iterdir()
    path = signed(tmp_path, NOW)
    with pytest.raises(OldBundleError) as raised:
        opened(path)
    for words in (", of 2031-02-28, while this machine's clock says 2027-03-01: set it", f"delete {memory}, and"):
        assert words in str(raised.value)
    memory.unlink()
    assert opened(path).remembered


def test_what_expired_before_this_version_is_expired_whatever_the_clock_says(
    tmp_path: Path, clock: Callable[[float], None]
) -> None:
    clock(0.0)
    path = signed(tmp_path, 1, expires="2026-11-01")
    with pytest.raises(OldBundleError, match="it expired on 2026-11-01, today is"):
        opened(path)


@both
def test_a_clock_that_the_dates_of_files_contradict_signs_nothing(
    store: Store, tmp_path: Path, clock: Callable[[float], None]
) -> None:
    path = store(tmp_path, bundle_files())
    before = [(p, p.read_bytes()) for p in sorted([path, *path.rglob("*")]) if p.is_file()]
    for seconds, said in (
        (86_400, "clock says 1970-01-02, but .* 2027-03-01: set the clock"),
        (NOW - 2 * 86_400, "clock says 2027-02-27, but .* 2027-03-01: set the clock"),
        (NOW + 4 * YEARS, "clock says 2031-02-28, and nothing here is younger than 2027-03-01"),
    ):
        clock(seconds)
        with pytest.raises(InputError, match=rf"{said}.* --serial {seconds}$"):
            sign_bundle(path, LAB, "lab")
        assert [(p, p.read_bytes()) for p, _ in before] == before
        assert sign_bundle(store(tmp_path / "..", bundle_files()), LAB, "lab", serial=seconds).serial == seconds
    clock(NOW + YEARS / 2)
    sign_bundle(store(tmp_path, bundle_files(name="later")), LAB, "lab")


def test_a_serial_is_greater_than_the_last_one_of_the_key_and_name(
    tmp_path: Path, clock: Callable[[float], None]
) -> None:
    def sign(serial: int | None = None, *, key: Ed25519PrivateKey = LAB, name: str = "tiny") -> int:
        return sign_bundle(as_zip(tmp_path, bundle_files(name=name)), key, "lab", serial=serial).serial

    assert [sign(), sign()] == [NOW, NOW + 1], "within one second"
    clock(NOW - 3600)
    assert sign() == NOW + 2, "a clock that was put back a little"
    assert sign(key=OTHER) == NOW - 3600
    assert sign(name="another") == NOW - 3600
    clock(NOW)
    assert sign(NOW + 4 * YEARS) == NOW + 4 * YEARS
    with pytest.raises(InputError) as raised:
        sign()
    assert f"is {NOW + 4 * YEARS} of 2031-02-28: set the clock if it is behind" in str(raised.value)
    ways = [int(number) for number in re.findall(r"--serial (\d+)", str(raised.value))]
    assert ways == [NOW, NOW + 4 * YEARS + 1]
    assert [sign(ways[0]), sign()] == [NOW, NOW + 1], "what was decided holds"


def test_a_serial_that_sites_will_not_like_is_told(tmp_path: Path, clock: Callable[[float], None]) -> None:
    def note(serial: int | None) -> str:
        return sign_bundle(as_zip(tmp_path, bundle_files()), LAB, "lab", serial=serial).note

    assert note(9) == ""
    assert note(7) == "sites that saw serial 9 of this name refuse this one"
    assert note(2027030101).startswith("read as a time, this serial is 2034-03-26: sites use the bundle and do not")
    assert note(9_000_000_000) == ""


def test_a_signer_without_a_place_to_remember_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert sign_bundle(as_zip(tmp_path, bundle_files()), LAB, "lab").serial > NOW - YEARS
