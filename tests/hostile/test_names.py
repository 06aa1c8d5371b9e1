"""Names that mean one thing everywhere: what classes and files of a bundle may be called."""

import unicodedata
from pathlib import Path

import pytest

from dpd_runtime.bundle import load_bundle
from dpd_runtime.classes import check_class_name
from dpd_runtime.errors import BundleError
from dpd_runtime.files import equal_names
from tests.unit.runtime.test_bundle import CLASSES, as_folder, as_zip, bundle_files, parts

MISLEADING = [
    *("CON", "nul", "Aux.png", "COM1", "lpt9.txt", "com\u00b9", "PRN .x", "conin$"),
    *("x.partial", "x.PARTIAL", "Forest.0123456789abcdef.partial"),
    *("-rf", "--help", "=HYPERLINK(A1)", "+1", "@SUM(A1)", "Forest.", "Forest ", "..", "."),
    *("For\u200best", "For\u00adest", "\u3164", "Forest\ufe0f", "\u202etsero", "For\u2800est", "\u00a0Forest"),
]
EQUAL = [
    ("Forest", "forest"),
    ("stra\u00dfe", "STRASSE"),
    (unicodedata.normalize("NFC", "Gew\u00e4chs"), unicodedata.normalize("NFD", "Gew\u00e4chs")),
    (unicodedata.normalize("NFD", "\u00c4CKER"), "\u00e4cker"),
]
PLAIN = [
    "Forest",
    "Sea Lake",
    "console",
    "Com10",
    "com",
    "a-b",
    "Gew\u00e4chs",
    "\u68ee\u6797",
    "partial",
    "x.partial.y",
]


def with_classes(*names: str) -> dict[str, bytes]:
    classes = [entry | {"name": name} for entry, name in zip(CLASSES["classes"], names, strict=True)]
    return bundle_files(parts(classes=CLASSES | {"classes": classes}))


@pytest.mark.parametrize("name", MISLEADING, ids=ascii)
def test_a_class_with_a_misleading_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be a folder name"):
        load_bundle(as_zip(tmp_path, with_classes("Forest", name)))


@pytest.mark.parametrize("name", PLAIN)
def test_plain_class_names_are_accepted(name: str, tmp_path: Path) -> None:
    found = load_bundle(as_zip(tmp_path, with_classes("Lake", name)))
    assert [scene.name for scene in found.classes] == ["Lake", name]


@pytest.mark.parametrize(("first", "second"), EQUAL, ids=ascii)
def test_classes_that_are_one_folder_elsewhere(first: str, second: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="are one folder on some systems"):
        load_bundle(as_zip(tmp_path, with_classes(first, second)))


@pytest.mark.parametrize("name", [name for name in MISLEADING if name not in (".", "..")], ids=ascii)
def test_a_file_with_a_misleading_name(name: str, tmp_path: Path) -> None:
    for place in (name, f"{name}/x", f"unet/{name}"):
        with pytest.raises(BundleError, match="unsafe path"):
            load_bundle(as_zip(tmp_path, bundle_files(parts() | {place: b"x"})))


@pytest.mark.parametrize("store", [as_zip, as_folder])
def test_files_that_are_one_file_elsewhere(store: type, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="are one file on some systems"):
        load_bundle(store(tmp_path, bundle_files(parts() | {"UNET/model.onnx": b"x"})))


def test_every_pair_is_compared() -> None:
    assert equal_names(["a", "b", "c", "B"]) == ("b", "B")
    assert equal_names(["a", "b", "c"]) is None


def test_a_long_name_makes_no_long_line() -> None:
    """Found by the fuzzer: a class name of 2,000 letters was quoted whole."""
    with pytest.raises(BundleError) as raised:
        check_class_name("x" * 2_000)
    assert len(str(raised.value)) < 300
