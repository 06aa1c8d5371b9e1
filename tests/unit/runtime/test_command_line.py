"""Lists of names on the command line, some of which have commas themselves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpd_runtime.errors import InputError
from dpd_runtime.text import joined, listed_names, option_words

NAMES = st.lists(st.text("ab, é'", min_size=1).map(str.strip).filter(bool), min_size=1, unique=True)


@given(NAMES)
def test_what_is_joined_is_read_again(names: list[str]) -> None:
    assert listed_names(joined(names)) == tuple(names)
    assert listed_names(joined(names), names) == tuple(names)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Forest, dense", ("Forest, dense",)),
        ("River,Forest, dense", ("River", "Forest, dense")),
        ("Forest, dense,River , Crop (annual)", ("Forest, dense", "River", "Crop (annual)")),
        ('"Forest, dense", River', ("Forest, dense", "River")),
        ("Forest", ("Forest",)),
        ("Forest,dense", ("Forest", "dense")),
        ("Fore\u0302t", ("For\u00eat",)),
        ("", ("",)),
    ],
)
def test_names_with_commas_are_known(text: str, names: tuple[str, ...]) -> None:
    assert listed_names(text, ["Forest, dense", "River", "Crop (annual)", "For\u00eat"]) == names


def test_a_text_with_two_meanings_is_refused() -> None:
    known = ["Forest", "dense", "Forest, dense"]
    with pytest.raises(InputError, match=r"'Forest, dense' can be read as .*: put each name into double quotes"):
        listed_names("Forest, dense", known)
    assert listed_names('"Forest, dense"', known) == ("Forest, dense",)
    assert listed_names('"Forest","dense"', known) == ("Forest", "dense")


def test_shown_command_lines_can_be_repeated() -> None:
    assert option_words({"classes": ("Forest, dense", "River")}) == [("--classes", '"Forest, dense",River')]
    assert option_words({"ipc": [1, 10]}) == [("--ipc", "1,10")]
