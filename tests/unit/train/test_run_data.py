"""The size that a run works at: the base's own, with a line that says so, or the one asked for."""

import json
from typing import Any

import pytest

from dpd_runtime.errors import InputError
from dpd_runtime.remarks import COST, SceneSides, recorded_sides, sides_of
from dpd_train.base_files import base_folder, base_sides
from dpd_train.run import fate_of_scenes, told_of_size, working_side


@pytest.mark.parametrize(
    ("native", "multiple", "wanted", "expected"),
    [(64, 16, None, 64), (64, 16, 64, 64), (64, 16, 128, 128), (512, 64, None, 512), (512, 64, 256, 256)],
)
def test_working_side(native: int, multiple: int, wanted: int | None, expected: int) -> None:
    assert working_side("BASE", native, multiple, wanted) == expected


def test_a_side_that_the_networks_cannot_take_is_refused() -> None:
    with pytest.raises(InputError, match="--resolution 200: base 'BASE' takes multiples of 64 px"):
        working_side("BASE", 512, 64, 200)


def said(sizes: dict[tuple[int, int], int], resolution: int | None = None) -> list[str]:
    return fate_of_scenes(sides_of(sizes), "nano", resolution)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        (
            {(256, 256): 9},
            "scenes of 256 px are reduced to 64 x 64 px, the size of base nano: the set shows nothing finer",
        ),
        ({(32, 32): 2}, "scenes of 32 px are enlarged to 64 x 64 px, the size of base nano: that adds no detail"),
        ({(64, 64): 9, (256, 256): 1}, "scenes of 64 to 256 px, median 64, are reduced to 64 x 64 px, "),
        ({(60, 60): 5, (70, 70): 6}, "scenes of 60 to 70 px, median 70, are resized to 64 x 64 px, "),
        (
            {(300, 200): 4, (64, 64): 3, (9, 9): 1},
            "px, median 200, are cut to their middle square and resized to 64 x ",
        ),
        ({(80, 64): 2}, "scenes of 64 px are cut to their middle square"),
    ],
)
def test_what_becomes_of_the_size_is_said(sizes: dict[tuple[int, int], int], words: str) -> None:
    assert words in said(sizes)[0]


@pytest.mark.parametrize("resolution", [None, 64])
def test_images_of_the_size_of_the_base_are_not_mentioned(resolution: int | None) -> None:
    assert said({(64, 64): 7}, resolution) == []


def test_what_a_smaller_size_costs_is_said_where_it_was_measured() -> None:
    assert COST in said({(256, 256): 9})
    assert COST in said({(512, 512): 9}, resolution=128)
    assert COST not in said({(100, 100): 9}), "no such reduction was measured"
    assert COST not in said({(32, 32): 9})


def test_a_side_that_keeps_more_is_named_with_its_price() -> None:
    """The base takes multiples of 16 px, and a step's work grows with the pixels."""
    own = base_sides("nano", base_folder("nano"))
    assert own == (64, 16)
    wider = [line for line in said({(256, 256): 9}) if line.startswith("--resolution")]
    assert len(wider) == 1
    assert wider[0].startswith("--resolution 128 keeps more: a step takes about 4 times as long")
    assert said({(100, 100): 9})[-1].startswith("--resolution 96 keeps more: a step takes about 2.2 times as long")
    assert len(said({(70, 70): 9})) == 1, "96 px would be more than they have"
    assert "1/4 of the time" in said({(32, 32): 9})[-1]
    assert len(said({(256, 256): 9}, resolution=64)) == 2, "who gave --resolution knows it"


def test_sides_are_counted_by_scenes() -> None:
    assert sides_of({(256, 250): 1, (64, 64): 6, (10, 900): 2}) == SceneSides(10, 64, 250, cut=True)
    assert sides_of({(8, 8): 1}) == SceneSides(8, 8, 8)


def test_recorded_sides_are_read_again() -> None:
    sides = SceneSides(10, 64, 250, cut=True)
    assert recorded_sides(json.loads(json.dumps(sides.record()))) == sides
    good = sides.record()
    strange: list[object] = [None, [1, 2, 3], {}, good | {"more": 1}, good | {"least": "10"}, good | {"least": 65}]
    strange += [good | {"least": True}, good | {"most": 10**9}, good | {"cut": 1}, good | {"median": 64.0}]
    assert [recorded_sides(content) for content in strange] == [None] * len(strange)


def test_a_run_of_an_older_version_tells_nothing() -> None:
    record: dict[str, Any] = {"config": {"resolution": 64}, "data": {"images": 9}}
    assert told_of_size(record) == []
    record["data"]["scene_sides"] = SceneSides(256, 256, 256).record()
    assert told_of_size(record)[0] == "scenes of 256 px are reduced to 64 x 64 px: the set shows nothing finer"
    assert told_of_size(record | {"crop": {"cut": 4}}) == [], "patches have the run's side"
