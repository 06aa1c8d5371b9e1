"""Ctrl-C: one that a library loses is noticed between two steps, and a second one ends the process at once."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dpd_runtime import load_bundle
from tests.commands import dpd

LOST = """
import os, signal, time
from dpd_cli import terminal as interrupts, terminal as progress

class Library:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)

interrupts.install()
with progress.stage_progress() as stage:
    update = stage("training")
    update(1, 3)
    Library()
    print("lost", flush=True)
    try:
        update(2, 3)
    except KeyboardInterrupt:
        print("noticed", flush=True)
"""
DEAF = """
import time
from dpd_cli import terminal as interrupts

interrupts.install()
while True:
    try:
        print("deaf", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        pass
"""


def test_one_that_a_library_loses_is_noticed_at_the_next_step(process_environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOST], env=process_environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["lost", "noticed"], done.stderr
    assert "Exception ignored in" in done.stderr


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_one_leaves_at_once(second: signal.Signals, process_environment: dict[str, str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", DEAF], env=process_environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for number in (signal.SIGINT, second):
        assert process.stdout.readline() == "deaf\n"
        time.sleep(0.1)  # until it sleeps
        process.send_signal(number)
    _, said = process.communicate(timeout=10)
    assert (process.returncode, said) == (130, "dpd: left at once; what was finished is kept\n")


def test_under_nohup_it_stays_ignored(process_environment: dict[str, str]) -> None:
    program = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    program += "from dpd_cli import terminal as interrupts\ninterrupts.install()\nsignal.raise_signal(signal.SIGINT)"
    subprocess.run([sys.executable, "-c", program], env=process_environment, timeout=60, check=True)


@pytest.mark.full
def test_a_distillation_interrupted_in_every_stage_is_continued(
    tmp_path: Path, process_environment: dict[str, str]
) -> None:
    pytest.importorskip("torch")
    from tests.tiny import drawn_scenes, tiny_base

    base = tiny_base(tmp_path)
    drawn_scenes(tmp_path / "scenes", per_class=24)
    environment = process_environment | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}

    def distill(where: str, *arguments: str) -> tuple[int, str, str]:
        command = [where, "distill", *arguments, "--out", "site.dpd"]
        done = dpd(command, environment, tmp_path, command="tests.path.short_distill:short_main", with_pytorch=True)
        return done.returncode, done.stdout, done.stderr

    given = ("scenes", "--base", str(base), "--ipc", "2", "--codes-only", "--threads", "1")
    code, _, said = distill("interrupt measuring:2", *given)
    assert code == 130, said
    assert not (tmp_path / "site-run").exists(), "nothing has begun"
    for where in ("interrupt teacher:2", "interrupt matching:2", "interrupt training students, %:2"):
        code, _, said = distill(where, *given)
        assert code == 130, said
        assert said.splitlines()[-1] == "dpd: interrupted; continue with: dpd distill --resume --out site.dpd"
        given = ("--resume",)
    code, out, said = distill("interrupt comparing images:2", "--resume")
    assert code == 130, said
    code, out, said = distill("never", "--resume", "--json")
    assert code in (0, 4), said
    assert load_bundle(tmp_path / "site.dpd").hash == json.loads(out)["bundle_hash"]
