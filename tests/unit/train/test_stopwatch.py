"""The time of a run: over sessions, and by stage."""

import time
from pathlib import Path

import pytest

from dpd_train import tracking
from dpd_train.tracking import Stopwatch


def test_seconds_of_sessions_add_up(tmp_path: Path) -> None:
    path = tmp_path / "seconds.json"
    path.write_text('{"seconds": 100.0, "stages": {"teacher": 60.0}}')
    watch = Stopwatch(path)
    time.sleep(0.2)
    assert 100.2 <= watch.seconds < 110
    watch.keep()
    assert Stopwatch(path).seconds >= 100.2
    assert Stopwatch(path).stages == {"teacher": 60.0}
    path.write_text("torn")
    assert Stopwatch(path).seconds < 10


def test_progress_keeps_the_time_and_announces_only_what_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "TICK", 0.0)
    announced: list[str] = []
    moved: list[tuple[int, int]] = []

    def stages(title: str) -> tracking.Progress:
        announced.append(title)
        return lambda done, total: moved.append((done, total))

    watch = Stopwatch(tmp_path / "seconds.json")
    progress = watch.around(stages)
    idle, busy = progress("idle"), progress("busy")
    assert (announced, watch.stage) == ([], "")
    busy(1, 3)
    busy(2, 3)
    assert (announced, moved, watch.stage) == (["busy"], [(1, 3), (2, 3)], "busy")
    assert (tmp_path / "seconds.json").exists()
    assert callable(idle)


def test_each_stage_has_its_own_time_in_all_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(tracking.time, "monotonic", lambda: now)
    for session in range(2):
        watch = Stopwatch(tmp_path / "seconds.json")
        teacher, matching = (watch.around(lambda _: lambda *_: None)(title) for title in ("teacher", "matching"))
        for update, at in (teacher, 3.0), (teacher, 5.0), (matching, 12.0):
            now = 100.0 * session + at
            update(1, 2)
        watch.keep()
        found, now = watch.times(), 100.0
    assert found == {"seconds": 24.0, "stages": {"teacher": 10.0, "matching": 14.0}}
