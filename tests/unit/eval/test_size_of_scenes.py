"""The report says what became of the size of a run's scenes."""

import json
from pathlib import Path
from typing import Any

import pytest

from dpd_eval.report_inputs import read_run
from dpd_eval.report_tables import run_tables

SIDES = {"least": 256, "median": 256, "most": 256, "cut": False}


@pytest.mark.parametrize(
    ("sides", "more", "words"),
    [
        (SIDES, {}, "scenes of 256 px are reduced to 64 x 64 px: the set shows nothing finer; on UC Merced"),
        (SIDES, {"crop": {"cut": 3}}, None),
        (SIDES | {"least": 64, "median": 64, "most": 64}, {}, None),
        (SIDES | {"most": "<b>"}, {}, None),
        (None, {}, None),
    ],
)
def test_a_run_tells_its_size_in_words(sides: Any, more: dict[str, Any], words: str | None, tmp_path: Path) -> None:
    data = {"images": 20, "classes": {"A": 10, "B": 10}, "sha256": "0" * 64}
    record = {"config": {"resolution": 64}, "data": data | ({"scene_sides": sides} if sides else {})}
    (tmp_path / "run.json").write_text(json.dumps(record | more))
    run = read_run(tmp_path, "run")
    said = [str(cell) for table in run_tables(run) for row in table.rows for cell in row]
    assert run.size.startswith(words or "")
    assert bool(run.size) is any("reduced to" in cell for cell in said) is (words is not None)
    assert not any("scene" in name for name in run.data), "not number by number"
