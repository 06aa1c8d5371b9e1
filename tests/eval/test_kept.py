"""What a benchmark keeps between calls: found again under what decides it alone, and whole or not at all."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.kept import digest, kept, kept_arrays


def test_a_result_is_kept_under_what_decides_it(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> int:
        made.append(0)
        return len(made)

    assert [kept(tmp_path, "a", {"x": 1, "y": [2]}, make) for _ in range(2)] == [1, 1]
    assert kept(tmp_path, "a", {"y": [2], "x": 1}, make) == 1, "the order of names is nothing"
    assert [kept(tmp_path, name, key, make) for name, key in (("a", {"x": 1, "y": [3]}), ("b", {"x": 1}))] == [2, 3]
    assert digest({"x": 1}) != digest({"x": "1"})
    arrays = [kept_arrays(tmp_path, "c", {}, lambda: {"values": np.full(3, make())}) for _ in range(2)]
    assert [found["values"].tolist() for found in arrays] == [[4, 4, 4], [4, 4, 4]]


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> int:
        raise KeyboardInterrupt

    for keep in (kept, kept_arrays):
        with pytest.raises(KeyboardInterrupt):
            keep(tmp_path / "work", "a", {}, fail)  # type: ignore[arg-type]
    assert list((tmp_path / "work").iterdir()) == []
