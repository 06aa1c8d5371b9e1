"""Work in a second thread: its queue is bounded, the order is kept, and errors are raised."""

import errno
import os
import resource
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from dpd_runtime import write_set
from dpd_runtime.errors import DiskError
from dpd_runtime.generation import WAITING, BlockComputer, ahead, writing_behind
from dpd_runtime.networks import Block, Image
from tests.drawn import Drawn, draw, drawn, files, opened


def test_ahead_keeps_order_and_is_one_item_ahead() -> None:
    made: list[int] = []

    def make(item: int) -> int:
        made.append(item)
        return item * item

    taken = 0
    for item, square in ahead(iter(range(20)), make):
        assert (item, square) == (taken, taken * taken)
        assert len(made) <= taken + 2
        taken += 1
    assert taken == 20
    assert list(ahead([], make)) == []


def test_ahead_makes_the_next_one_while_this_one_is_used() -> None:
    begun = [threading.Event() for _ in range(3)]

    def make(item: int) -> int:
        begun[item].set()
        return item

    for item, _ in ahead(range(3), make):
        if item < 2:
            assert begun[item + 1].wait(10)


def test_what_ahead_cannot_make_is_said_in_its_turn() -> None:
    def make(item: int) -> int:
        if item == 2:
            raise ValueError("the third")
        return item

    seen: list[int] = []
    with pytest.raises(ValueError, match="the third"):
        seen.extend(item for item, _ in ahead(range(5), make))
    assert seen == [0, 1]


def test_writing_is_in_order_bounded_and_complete_at_the_end() -> None:
    written: list[int] = []
    handed, most = 0, 0

    def write(item: int) -> None:
        time.sleep(0.002)
        written.append(item)

    with writing_behind(write) as put:
        for item in range(30):
            put(item)
            handed += 1
            most = max(most, handed - len(written))
    assert written == list(range(30))
    assert 1 <= most <= WAITING + 1


def test_an_error_of_the_writer_ends_the_work_and_nothing_is_written_after_it() -> None:
    written: list[int] = []

    def write(item: int) -> None:
        if item == 3:
            raise OSError(errno.ENOSPC, "full")
        written.append(item)

    put_to = 0

    def work() -> None:
        nonlocal put_to
        with writing_behind(write) as put:
            for put_to in range(1000):
                put(put_to)

    with pytest.raises(OSError, match="full"):
        work()
    assert written == [0, 1, 2]
    assert put_to <= 4 + WAITING


def test_an_interrupt_leaves_what_was_handed_over_written() -> None:
    written: list[int] = []
    before = set(threading.enumerate())

    def write(item: int) -> None:
        time.sleep(0.01)
        written.append(item)

    def work() -> None:
        with writing_behind(write) as put:
            put(0)
            put(1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert written == [0, 1]
    assert set(threading.enumerate()) <= before


class Sleepy(Drawn):
    """Blocks that take 20 ms each; `do` is called with the number of blocks before this one."""

    def load(self) -> BlockComputer:
        drawing = self

        class Computer(BlockComputer):
            def __init__(self) -> None:
                pass

            def noise(self, block: Block) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
                return np.zeros(0, np.float32)

            def together(self, blocks: Iterable[Block]) -> Iterator[list[Block]]:
                return ([block] for block in blocks)

            def images(self, blocks: Sequence[Block], noises: object) -> Iterator[list[Image]]:
                drawing.before(drawing.blocks_computed)
                time.sleep(0.02)
                drawing.blocks_computed += 1
                yield from map(draw, blocks)

        return Computer()

    def before(self, number: int) -> None:
        return None


def sleepy(ipc: int = 40) -> Sleepy:
    return Sleepy(opened(), ipc=ipc, seed=7, classes=("Forest",), provider="cpu", threads=1)


@pytest.fixture
def ctrl_c_interrupts() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt, also in a background job, which ignores it by default."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_interrupts")
def test_ctrl_c_in_the_middle_is_clean_and_what_was_computed_is_kept(tmp_path: Path) -> None:
    generation = sleepy()

    def before(number: int) -> None:
        if number == 3:
            os.kill(os.getpid(), signal.SIGINT)

    generation.before = before  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        write_set(generation, tmp_path / "cut")
    assert not list((tmp_path / "cut").glob(".lock*"))
    again = sleepy()
    result = write_set(again, tmp_path / "cut")
    assert result.computed == 10  # blocks 0, 1 and 2 had been handed over
    write_set(sleepy(), tmp_path / "whole")
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_a_full_disk_stops_the_networks_too(tmp_path: Path) -> None:
    """No file may become larger than the state after a few blocks."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))
        generation = sleepy(ipc=300)
        try:
            write_set(generation, tmp_path / "full")
        except DiskError as error:
            os._exit(generation.blocks_computed if "finished images are kept" in str(error) else 98)
        os._exit(99)
    computed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert 2 <= computed <= 10, "of 30 blocks"
    again = drawn(300, ("Forest",))
    result = write_set(again, tmp_path / "full")
    assert 0 < result.computed < 300
    whole = write_set(drawn(300, ("Forest",)), tmp_path / "whole")
    assert result.set_hash == whole.set_hash


def test_a_folder_that_vanishes_is_said_in_one_line(tmp_path: Path) -> None:
    generation = sleepy()

    def before(number: int) -> None:
        if number == 2:
            (tmp_path / "gone").rename(tmp_path / "elsewhere")  # at once, while the writer writes into it

    generation.before = before  # type: ignore[method-assign]
    with pytest.raises(DiskError, match="No such file or directory; finished images are kept"):
        write_set(generation, tmp_path / "gone")
    assert generation.blocks_computed < 4 + WAITING


def test_blocks_in_a_stream_are_those_computed_alone() -> None:
    """With the networks of the embedded bundle and a solver that adds noise in every step."""
    from dpd_runtime.generation import Generation, resolve_sampler

    sampler = resolve_sampler(opened().manifest.sampler, steps=2, solver="lcm", candidates=1, guidance_scale=1)
    generation = Generation(opened(), ipc=1, seed=3, classes=("Forest", "River"), sampler=sampler, provider="cpu")

    def key(images: Iterator[Image] | list[Image]) -> list[tuple[str, int, bytes]]:
        return [(image.class_name, image.index, image.pixels.tobytes()) for image in images]

    alone = [entry for block in reversed(generation.blocks()) for entry in key(generation.compute(block))]
    assert key(list(generation)) == alone[::-1]
