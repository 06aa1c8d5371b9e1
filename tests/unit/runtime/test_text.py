"""Texts for people: plurals, and cells of our CSV files, which no spreadsheet takes for a formula."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpd_runtime.classifier import Label, Labelled
from dpd_runtime.text import counted, csv_line, differing

FORMULAS = ["=1+1", "+1", "-1.png", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1", "'=1", '="a"', '=HYPERLINK("x",1)']


def cells(line: str, delimiter: str = ",") -> list[str]:
    (row,) = csv.reader(io.StringIO(line, newline=""), delimiter=delimiter)
    return row


@pytest.mark.parametrize("text", FORMULAS)
def test_what_begins_a_formula_gets_an_apostrophe(text: str) -> None:
    assert cells(csv_line(["a", text])) == ["a", f"'{text}"]


@given(st.lists(st.text(max_size=8) | st.sampled_from(FORMULAS), min_size=2, max_size=4))
def test_each_text_comes_back_and_none_is_a_formula(texts: list[str]) -> None:
    found = cells(csv_line(texts))
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) for cell in found)
    assert [cell.removeprefix("'") for cell in found] == texts


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_spreadsheet_that_separates_by_another_sign(delimiter: str) -> None:
    line = csv_line([f"a{delimiter}=1+1.png", "Forest"])
    assert not any(cell.startswith("=") for cell in cells(line, delimiter))


@given(st.lists(st.text(st.characters(codec="ascii", exclude_characters="=+-@'\t\r\n;"), min_size=1), min_size=2))
def test_ordinary_cells_are_written_as_ever(texts: list[str]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(texts)
    assert csv_line(texts) == text.getvalue()


def test_labels_have_no_formulas_in_any_column() -> None:
    labels = (Label("=cmd|' /C calc'!A0.png", "Forest", 0.5), Label("b.png", reason="@damaged; =1"))
    lines = Labelled(labels, (), None, ("Forest",), ()).to_csv().decode().splitlines()  # type: ignore[arg-type]
    assert [cells(line) for line in lines] == [
        ["file", "class", "probability", "reason"],
        ["'=cmd|' /C calc'!A0.png", "Forest", "0.5000", ""],
        ["b.png", "", "", "'@damaged; =1"],
    ]


@pytest.mark.parametrize(
    ("noun", "several"),
    [("image", "images"), ("class", "classes"), ("copy", "copies"), ("training image", "training images"),
     ("day", "days"), ("batch", "batches"), ("pair", "pairs")],
)  # fmt: skip
def test_one_is_singular_and_any_other_number_plural(noun: str, several: str) -> None:
    assert counted(1, noun) == f"1 {noun}"
    for number in (0, 2, 10):
        assert counted(number, noun) == f"{number} {several}"
    assert counted(1, "file shows", "files show") == "1 file shows"
    assert counted(0, "file shows", "files show") == "0 files show"


def test_what_differs_is_another_one_or_others() -> None:
    assert differing([]) == ""
    assert differing(["seed"]) == "another seed"
    assert differing(["bundle", "provider"]) == "another bundle, provider"
    assert differing(["classes"]) == "other classes"
    assert differing(["seed", "classes"]) == "another seed and other classes"
    assert differing(["--steps", "watcher in --watchers"]) == "another --steps, watcher in --watchers"
