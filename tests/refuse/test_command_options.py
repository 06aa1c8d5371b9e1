"""Options that are made from the fields of a config."""

from dataclasses import dataclass
from typing import Any, Literal

import pytest
import typer
from typer.testing import CliRunner

from dpd_cli.options import Values, options_of
from dpd_runtime.errors import InputError
from dpd_runtime.settings import setting
from dpd_train.config import TrainConfig, resolve


@dataclass(frozen=True, kw_only=True)
class Small:
    count: int = setting(3, "Data", "Count.")
    rate: float | None = setting(None, "Data", "Rate.")
    flag: bool = setting(True, "Data", "Flag.")
    kind: Literal["a", "b"] = setting("a", "Data", "Kind.")
    names: tuple[str, ...] = setting(("x",), "Data", "Names.")
    sizes: tuple[int, ...] | None = setting(None, "Data", "Sizes.")
    shares: tuple[float, ...] | None = setting(None, "Data", "Shares.")
    pair: tuple[str, str] | None = setting(None, "Data", "Pair.")


def given(*arguments: str) -> dict[str, Any]:
    """What a command with the options of Small gets."""
    seen: dict[str, Any] = {}
    app = typer.Typer()

    @app.command()
    @options_of(Small)
    def command(place: str = "here", *, given: Values) -> None:
        seen.update(given[Small], place=place)

    done = CliRunner().invoke(app, arguments)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return seen


def test_what_is_not_given_is_none() -> None:
    assert set(given().values()) == {None, "here"}


def test_values_have_the_type_of_their_field() -> None:
    found = given("--count", "7", "--rate", "1e-3", "--no-flag", "--kind", "b", "--pair", "u", "v", "--place", "there")
    assert (found["count"], found["rate"], found["flag"], found["kind"]) == (7, 1e-3, False, "b")
    assert (tuple(found["pair"]), found["place"]) == (("u", "v"), "there")


def test_lists_have_commas() -> None:
    found = given("--names", "a, b", "--sizes", "10,50")
    assert (found["names"], found["sizes"]) == (("a", "b"), (10, 50))
    assert given("--names", "")["names"] == ()
    assert given("--shares", "6,3.5, .5")["shares"] == (6.0, 3.5, 0.5)
    with pytest.raises(InputError, match="--sizes 1,x: give whole numbers"):
        given("--sizes", "1,x")
    with pytest.raises(InputError, match="--shares much: give numbers"):
        given("--shares", "much")


def test_a_preset_wins_over_defaults_and_an_option_over_the_preset() -> None:
    preset = resolve("standard", {"steps": None})
    assert preset.steps != TrainConfig().steps
    assert resolve("standard", {"steps": 7}).steps == 7
