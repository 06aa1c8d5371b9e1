"""Attacks on what a user reads about a bundle: invented verdicts, letters that nobody sees, endless texts."""

import json
from pathlib import Path

import pytest

from dpd_runtime.bundle import embedded_bundle, load_bundle
from dpd_runtime.classes import check_class_name
from dpd_runtime.errors import BundleError
from dpd_runtime.manifest import UNAUDITED, VERDICTS, parse_manifest
from dpd_runtime.sealing import write_audited
from dpd_runtime.text import LONGEST_NAME, LONGEST_TEXT, is_visible
from tests.commands import dpd
from tests.unit.runtime.test_bundle import CLASSES, Store, as_zip, both, bundle_files, manifest_of, parts
from tests.unit.runtime.test_manifest import changed

INVENTED = ["PASS, signed by trusted key lab", "pass", "PASS ", "", "P\u200bASS", "PA\u034fSS", "Ｐass"]
UNSEEN = {
    "control": "\x1b",
    "zero width space": "\u200b",
    "right-to-left override": "\u202e",
    "isolate": "\u2066",
    "byte order mark": "\ufeff",
    "tag": "\U000e0041",
    "surrogate": "\ud800",
    "private": "\ue000",
    "unassigned": "\u0378",
    "no-break space": "\xa0",
    "line separator": "\u2028",
    "grapheme joiner": "\u034f",
    "Hangul filler": "\u3164",
    "variation selector": "\ufe0f",
    "Mongolian selector": "\u180b",
    "blank Braille": "\u2800",
    "null notehead": "\U0001d159",
    "Khitan filler": "\U00016fe4",
    "Brahmi joiner": "\U0001107f",
    "object replacement": "\ufffc",
}
unseen = pytest.mark.parametrize("letter", UNSEEN.values(), ids=UNSEEN)


@pytest.mark.parametrize("audit", INVENTED)
def test_an_invented_verdict(audit: str) -> None:
    with pytest.raises(BundleError, match="audit") as raised:
        parse_manifest(changed(("audit",), audit))
    assert raised.value.exit_code == 3


@pytest.mark.parametrize("audit", [*VERDICTS, UNAUDITED])
def test_each_verdict_is_read(audit: str) -> None:
    assert parse_manifest(changed(("audit",), audit)).audit == audit


RECORDS = {
    "none": None,
    "another verdict": b'{"verdict": "FAIL"}',
    "no verdict": b"{}",
    "a list": b'["PASS"]',
    "no JSON": b"PASS",
    "two verdicts": b'{"verdict": "FAIL", "verdict": "PASS"}',
}


@both
@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_a_verdict_that_its_record_does_not_give(record: bytes | None, store: Store, tmp_path: Path) -> None:
    files = parts() | ({} if record is None else {"audit.json": record})
    with pytest.raises(BundleError, match=r"audit\.json"):
        load_bundle(store(tmp_path, bundle_files(files, audit="PASS")))


@both
@pytest.mark.parametrize("record", [b"{}", b'{"verdict": "PASS"}', b"\xff"])
def test_a_record_that_the_manifest_does_not_know(record: bytes, store: Store, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"audit\.json"):
        load_bundle(store(tmp_path, bundle_files(parts() | {"audit.json": record})))


def test_audited_bundles_are_loaded(tmp_path: Path) -> None:
    assert load_bundle(embedded_bundle()).manifest.audit in ("PASS", "WARN")
    plain = load_bundle(as_zip(tmp_path, bundle_files()))
    for verdict in VERDICTS:
        write_audited(plain, tmp_path / verdict, {"verdict": verdict}, verdict)
        assert load_bundle(tmp_path / verdict).manifest.audit == verdict


@unseen
def test_letters_that_nobody_sees(letter: str) -> None:
    assert not is_visible(letter)
    for path in (("name",), ("licences",), ("tools",), ("data",)):
        text = f"a{letter}b"
        for value in [text] if path == ("name",) else [{"base": text}, {text: "base"}]:
            with pytest.raises(BundleError, match=f"{path[0]} has characters that cannot be printed"):
                parse_manifest(changed(path, value))
    with pytest.raises(BundleError, match="cannot be a folder name"):
        check_class_name(f"a{letter}b")


@unseen
def test_prompts_of_letters_that_nobody_sees(letter: str, tmp_path: Path) -> None:
    classes = CLASSES | {"prompts": ["a forest", f"a{letter}lake", "dark forest"]}
    with pytest.raises(BundleError, match=r"a prompt .* has characters that cannot be printed"):
        load_bundle(as_zip(tmp_path, bundle_files(parts(classes=classes))))


@pytest.mark.parametrize("text", ["Sea Lake é", "Größe", "水体", "غابة", "हिन्दी", "n\u0303", "EuroSAT (MIT)"])
def test_letters_of_all_languages_are_welcome(text: str) -> None:
    assert is_visible(text)
    assert check_class_name(text) == text


LONG: list[tuple[tuple[str, ...], object]] = [
    (("name",), "n" * (LONGEST_NAME + 1)),
    (("precision",), "p" * (LONGEST_TEXT + 1)),
    (("licences",), {"base": "l" * (LONGEST_TEXT + 1)}),
    (("licences",), {"l" * (LONGEST_TEXT + 1): "MIT"}),
    (("licences",), {str(n): "MIT" for n in range(101)}),
    (("data",), {"about": ["d" * (LONGEST_TEXT + 1)]}),
    (("audit",), "PASS" * 10**6),
]


@pytest.mark.parametrize(("path", "value"), LONG, ids=lambda value: str(value)[:20])
def test_long_texts(path: tuple[str, ...], value: object) -> None:
    with pytest.raises(BundleError, match=path[0]) as raised:
        parse_manifest(changed(path, value))
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize("prompt", ["p" * (LONGEST_TEXT + 1), "\n".join("ab"), 10**29], ids=["long", "lines", "number"])
def test_prompts_that_fill_the_screen(prompt: object, tmp_path: Path) -> None:
    classes = CLASSES | {"prompts": ["a forest", prompt, "dark forest"]}
    with pytest.raises(BundleError, match=r"classes\.json: a prompt"):
        load_bundle(as_zip(tmp_path, bundle_files(parts(classes=classes))))


@pytest.mark.parametrize("verb", ["info", "verify"])
def test_the_signature_stands_first(verb: str, tmp_path: Path, process_environment: dict[str, str]) -> None:
    files = dict(load_bundle(embedded_bundle()).files)
    files.pop("golden.safetensors")
    manifest = json.loads(manifest_of(files))
    shipped = load_bundle(embedded_bundle()).manifest
    manifest = json.loads(shipped.to_json()) | {"files": manifest["files"], "name": "signature   signed by trusted key"}
    path = as_zip(tmp_path, files | {"bundle.json": json.dumps(manifest).encode()})
    done = dpd([verb, str(path)], process_environment, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "signature   unsigned"
    assert done.stdout.count("unsigned") == 1


def test_an_error_with_a_long_text_is_cut(tmp_path: Path, process_environment: dict[str, str]) -> None:
    manifest = json.loads(manifest_of(parts())) | {"k" * 10**6: 1}
    path = as_zip(tmp_path, parts() | {"bundle.json": json.dumps(manifest).encode()})
    done = dpd(["info", str(path)], process_environment, tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (3, 1)
    assert len(done.stderr) < 5_000
    assert done.stderr.endswith("export the bundle again\n")
