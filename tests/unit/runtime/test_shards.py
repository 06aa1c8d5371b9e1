"""Several processes write one set: it equals the set of one process, even if some are killed or late."""

import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dpd_runtime import Output, write_set
from dpd_runtime.dataset import DistilledSet, check_output_folder, remove_set
from dpd_runtime.errors import DiskError, InputError, OutputFolderError
from dpd_runtime.files import FileLock
from dpd_runtime.networks import Block
from dpd_runtime.set_state import WHOLE, Shard, Worker, parse_shard
from tests.drawn import Drawn, drawn, files, opened, write

CLASSES = ("SeaLake", "Forest", "River")
IPC = 12  # two blocks a class, the second one cut
OUTPUTS = [Output(), Output("webdataset", "webp"), Output("npz")]
each = pytest.mark.parametrize("output", OUTPUTS, ids=lambda o: f"{o.format}-{o.encoding.name}")


def part(out: Path, shard: Shard, output: Output = OUTPUTS[0], ipc: int = IPC) -> DistilledSet:
    return write_set(drawn(ipc, CLASSES), out, output=output, shard=shard)


def started(action: Callable[[], object]) -> int:
    """Run `action` in a forked process, which exits with 0 or with the exit code of an error."""
    child = os.fork()
    if child:
        return child
    try:
        action()
        os._exit(0)
    except BaseException as error:
        print(error, file=sys.stderr)
        os._exit(getattr(error, "exit_code", 99))


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed(out: Path, shard: Shard, touch: int, output: Output) -> bool:
    """Run the shard in a process that gets SIGKILL before its `touch`-th file access. Returns whether it did."""

    def action() -> None:
        left = touch

        def count(name: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            if name in ("open", "os.rename", "os.remove") and str(out) in str(arguments[0]):
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        part(out, shard, output)

    code = ended(started(action))
    assert code in (0, -signal.SIGKILL)
    return code != 0


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
def test_every_block_is_of_one_shard(count: int) -> None:
    blocks = drawn(95, CLASSES).blocks()
    parts = [Shard(number, count).of(blocks) for number in range(count)]
    assert sorted(map(len, parts))[-1] - min(map(len, parts)) <= 1

    def key(block: Block) -> tuple[str, int]:
        return block.scene_class.name, block.number

    assert sorted(key(b) for shard in parts for b in shard) == sorted(map(key, blocks))


def test_shards_are_written_as_i_of_n() -> None:
    assert parse_shard("0/1") == WHOLE
    assert parse_shard("3/4") == Shard(3, 4)
    for text, words in {
        "4/4": "count from 0, so the last one is 3/4",
        "1": "write i/n",
        "-1/4": "write i/n",
        "0/0": "must be 1 … 10000",
        "1/20000": "must be 1 … 10000",
        "one/two": "write i/n",
    }.items():
        with pytest.raises(InputError, match=words):
            parse_shard(text)


@each
def test_shards_at_the_same_time_leave_what_one_run_leaves(output: Output, tmp_path: Path) -> None:
    children = [started(lambda n=n: part(tmp_path / "shards", Shard(n, 4), output)) for n in range(4)]
    assert [ended(child) for child in children] == [0] * 4
    write(tmp_path / "whole", output, IPC, CLASSES)
    assert files(tmp_path / "shards") == files(tmp_path / "whole")
    assert not [path for path in (tmp_path / "shards").iterdir() if path.name.startswith((".", "state"))]


@each
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_shards_one_after_another(output: Output, order: tuple[int, ...], tmp_path: Path) -> None:
    results = [part(tmp_path / "shards", Shard(number, 3), output) for number in order]
    assert [result.set_hash is None for result in results] == [True, True, False]
    assert [result.computed for result in results] == [sum((10, 2)[b % 2] for b in range(n, 6, 3)) for n in order]
    assert results[0].left == 3 * IPC - results[0].computed
    whole = write(tmp_path / "whole", output, IPC, CLASSES)
    assert (results[2].set_hash, results[2].images, results[2].left) == (whole.set_hash, 3 * IPC, 0)
    assert files(tmp_path / "shards") == files(tmp_path / "whole")
    again = part(tmp_path / "shards", Shard(1, 3), output)
    assert (again.computed, again.set_hash) == (0, whole.set_hash)
    assert files(tmp_path / "shards") == files(tmp_path / "whole")


@each
def test_a_shard_that_is_killed_anywhere_comes_back(output: Output, tmp_path: Path) -> None:
    write(tmp_path / "whole", output, IPC, CLASSES)
    expected = files(tmp_path / "whole")
    kills = 0
    for touch in range(0, 200, 41):
        out = tmp_path / str(touch)
        part(out, Shard(0, 2), output)
        kills += killed(out, Shard(1, 2), touch, output)
        check_output_folder(out)
        part(out, Shard(1, 2), output)
        assert files(out) == expected, f"killed before touch {touch}"
    assert kills >= 2


def test_another_number_of_shards_goes_on_with_what_is_there(tmp_path: Path) -> None:
    part(tmp_path / "a", Shard(0, 4))  # blocks 0 and 4: the first of two classes
    part(tmp_path / "a", Shard(2, 4))
    rest = write(tmp_path / "a", Output(), IPC, CLASSES)
    whole = write(tmp_path / "b", Output(), IPC, CLASSES)
    assert rest.computed == whole.images - 30
    assert files(tmp_path / "a") == files(tmp_path / "b")


@pytest.mark.full
def test_shards_that_begin_together_keep_what_a_finished_set_held(tmp_path: Path) -> None:
    write(tmp_path / "b", Output(), 22, CLASSES)
    for attempt in range(5):
        out = tmp_path / str(attempt)
        write(out, Output(), IPC, CLASSES)
        old = {path: path.stat().st_mtime_ns for path in out.glob("*/*_0000*.png")}
        children = [started(lambda n=n, out=out: part(out, Shard(n, 4), ipc=22)) for n in range(4)]
        assert [ended(child) for child in children] == [0] * 4
        assert {path: path.stat().st_mtime_ns for path in old} == old
        assert files(out) == files(tmp_path / "b")


def test_shards_make_a_finished_set_larger(tmp_path: Path) -> None:
    write(tmp_path / "a", Output(), 3, CLASSES)
    results = [part(tmp_path / "a", Shard(number, 2)) for number in (1, 0)]
    assert sum(result.computed for result in results) == 3 * IPC
    write(tmp_path / "b", Output(), IPC, CLASSES)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_damage_to_anothers_part_is_found_before_the_end(tmp_path: Path) -> None:
    part(tmp_path, Shard(0, 2))
    damaged = next(path for path in sorted(tmp_path.glob("*/*_00001.png")))
    damaged.write_bytes(damaged.read_bytes()[:100])
    result = part(tmp_path, Shard(1, 2))
    assert (result.set_hash, result.left) == (None, 10)
    assert part(tmp_path, Shard(0, 2)).set_hash is not None


def test_another_seed_is_refused(tmp_path: Path) -> None:
    part(tmp_path, Shard(0, 2))
    other = Drawn(opened(), ipc=IPC, seed=8, classes=CLASSES, provider="cpu", threads=1)
    with pytest.raises(OutputFolderError, match="made with another seed"):
        write_set(other, tmp_path, shard=Shard(1, 2))


class Paused:
    """A process that stays at work on a shard of `out` until `end` is called."""

    def __init__(self, out: Path, shard: Shard) -> None:
        reading, self._writing = os.pipe()
        ready, signalled = os.pipe()

        def action() -> None:
            os.close(self._writing)
            out.mkdir(exist_ok=True)
            with Worker(out, shard):
                os.write(signalled, b"x")
                os.read(reading, 1)

        self.child = started(action)
        os.read(ready, 1)

    def end(self) -> None:
        os.close(self._writing)
        assert ended(self.child) == 0


@pytest.mark.parametrize(
    ("holder", "asking"),
    [
        (WHOLE, WHOLE),
        (WHOLE, Shard(0, 2)),
        (Shard(1, 2), WHOLE),
        (Shard(1, 2), Shard(1, 2)),
        (Shard(1, 2), Shard(0, 3)),
    ],
    ids=str,
)
def test_two_processes_never_write_the_same_files(holder: Shard, asking: Shard, tmp_path: Path) -> None:
    out = tmp_path / "out"
    other = Paused(out, holder)
    said = "the whole set" if holder == WHOLE else f"shard {holder}"
    with pytest.raises(
        OutputFolderError, match=rf"written by another dpd generate \({said}, pid {other.child} on .*\)"
    ):
        part(out, asking)
    with pytest.raises(OutputFolderError, match="written by another dpd generate"):
        remove_set(out)
    other.end()
    assert part(out, asking).images > 0


def test_who_is_not_alone_leaves_the_end_to_the_other(tmp_path: Path) -> None:
    part(tmp_path, Shard(1, 2))
    other = Paused(tmp_path, Shard(1, 2))  # is restarted for nothing, as schedulers do
    result = part(tmp_path, Shard(0, 2))
    assert (result.set_hash, result.left) == (None, 0)
    other.end()
    assert part(tmp_path, Shard(1, 2)).set_hash == write(tmp_path / "whole", Output(), IPC, CLASSES).set_hash


def test_a_lock_file_of_the_dead_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".lock-0-of-3").write_text("pid 1 on another machine")
    assert part(tmp_path, WHOLE).images == 3 * IPC
    assert not list(tmp_path.glob(".lock*"))


def test_locks_are_exclusive_under_contention(tmp_path: Path) -> None:
    """Six processes read, wait and write a number 20 times each; a lock that lets two in would lose a count."""
    (tmp_path / "count").write_text("0")

    def add() -> None:
        for _ in range(20):
            lock = FileLock(tmp_path / "lock")
            assert lock.acquire(wait=True)
            value = int((tmp_path / "count").read_text())
            time.sleep(0.0005)
            (tmp_path / "count").write_text(str(value + 1))
            lock.release()

    children = [started(add) for _ in range(6)]
    assert [ended(child) for child in children] == [0] * 6
    assert (tmp_path / "count").read_text() == "120"
    assert not (tmp_path / "lock").exists()


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(DiskError, match="this file system has no locks"):
        part(tmp_path / "out", Shard(0, 2))
