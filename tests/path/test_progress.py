"""Bars and log lines share one terminal, read back by a small terminal of the test; without one there are lines."""

import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from fcntl import ioctl

import pytest

from dpd_cli import terminal

COLUMNS = 100
DRAW = """
import logging, time
from dpd_cli import terminal as progress
progress.SAMPLE = 0.2
progress.log_to_console()
with progress.stage_progress() as stage:
    for title, begun in (("first stage", 0), ("second stage", 10)):
        update = stage(title)
        for step in range(begun, 20):
            update(step + 1, 20)
            if step % 5 == 4:
                logging.getLogger("dpd").info("log line %s %d", title, step)
                print(f"printed {title} {step}", file=__import__("sys").stderr)
            time.sleep(0.05)
"""


def screen(raw: str) -> list[str]:
    """The lines that a terminal shows: \\r, \\n, erasing a line and moving up; colours are passed over."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", raw):
        if part == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif part == "\r":
            column = 0
        elif part.startswith("\x1b"):
            row -= int(part[2:-1] or 1) if part.endswith("A") else 0
            if part.endswith("K"):
                lines[row] = ""
        else:
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines]


def drawn(environment: dict[str, str]) -> Iterator[str]:
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", DRAW], stdin=theirs, stdout=theirs, stderr=theirs, env=environment | {"TERM": "xterm"}
    )
    os.close(theirs)
    try:
        while content := os.read(ours, 65536):
            yield content.decode()
    except OSError:  # the other end is closed
        pass
    assert process.wait() == 0
    os.close(ours)


def test_log_lines_stand_above_one_bar_for_each_stage(process_environment: dict[str, str]) -> None:
    shown = screen("".join(drawn(process_environment)))
    for title, steps in (("first stage", (4, 9, 14, 19)), ("second stage", (14, 19))):
        for step in steps:
            assert (
                sum(re.fullmatch(rf"\d\d:\d\d:\d\d log line {title} {step}", line) is not None for line in shown) == 1
            )
            assert shown.count(f"printed {title} {step}") == 1
        bars = [line for line in shown if line.startswith(title) and "/20" in line]
        assert len(bars) == 1, shown
        assert re.search(r"20/20 in \d s$", bars[0]), bars
        assert len(bars[0]) <= 80


def test_without_a_terminal_there_are_plain_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(0, 100_000, 10))  # a step takes some tens of seconds: each look at the clock takes ten
    monkeypatch.setattr(terminal.time, "monotonic", lambda: float(next(clock)))
    with terminal.stage_progress() as stage:
        update = stage("training")
        for step in range(400, 410):  # an earlier session has done 400
            update(step, 1000)
    said = capsys.readouterr().err.splitlines()
    assert "\r" not in "".join(said)
    assert re.fullmatch(r"training: 40\d/1000, done about (\w{3} )?\d\d:\d\d", said[0])


def test_a_long_stage_leaves_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter(range(0, 100_000, 10))
    monkeypatch.setattr(terminal.time, "monotonic", lambda: float(next(clock)))
    with terminal.stage_progress() as stage:
        for title, steps in (("long", 4), ("short", 1)):
            update = stage(title)
            for step in (*range(steps), steps - 1, steps - 1):  # a rounded count is at its end for a while
                update(step + 1, steps)
    said = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"long: 4/4, in \d+ (s|min)", said[-1])
    assert len([line for line in said if line.startswith("long: 4/4")]) == 1


def test_the_end_is_a_time_of_day_and_on_another_day_its_name() -> None:
    assert re.fullmatch(r"(\w{3} )?\d\d:\d\d", terminal.time_of_day(60))
    assert re.fullmatch(r"\w{3} \d\d:\d\d", terminal.time_of_day(86_400))


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (99, "99 s"), (119, "2 min"), (3590, "1 h 0 min"), (8000, "2 h 13 min")]
)
def test_durations(seconds: float, words: str) -> None:
    assert terminal.duration(seconds) == words
