"""Every format after kills, damage, a full disk, a second run: the bytes equal those of an undisturbed run."""

import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dpd_runtime import Output, write_set
from dpd_runtime.dataset import check_output_folder, remove_set
from dpd_runtime.errors import DiskError, OutputFolderError
from dpd_runtime.formats import FORMATS
from tests.drawn import drawn, files, need, write

OUTPUTS = [Output(), Output(image_format="jpeg"), Output("webdataset"), Output("parquet", "webp"), Output("npz")]
PACKED = OUTPUTS[1:]
each = pytest.mark.parametrize("output", OUTPUTS, ids=lambda o: f"{o.format}-{o.encoding.name}")
each_packed = pytest.mark.parametrize("output", PACKED, ids=lambda o: f"{o.format}-{o.encoding.name}")


def in_a_child(action: Callable[[], int]) -> int:
    """The exit code of a forked process that runs `action`; negative if a signal ended it."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(action())
        except BaseException:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(out: Path, output: Output, event: int) -> bool:
    """Write a set in a process that gets SIGKILL before its `event`-th touch of a file under `out`."""

    def action() -> int:
        generation, left = drawn(), event

        def count(name: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            if name in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"):
                if str(out) not in str(arguments[0]):
                    return
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        write_set(generation, out, output=output)
        return 0

    code = in_a_child(action)
    assert code in (0, -signal.SIGKILL)
    return code != 0


@pytest.mark.parametrize(
    "output",
    [pytest.param(output, marks=[pytest.mark.full] * (output.format != "npz")) for output in OUTPUTS],
    ids=lambda o: f"{o.format}-{o.encoding.name}",
)
def test_a_kill_before_any_touch_of_a_file_costs_nothing(output: Output, tmp_path: Path) -> None:
    need(output.format)
    write(tmp_path / "whole", output)
    expected = files(tmp_path / "whole")
    kills = 0
    for event in range(0, 400, 7):
        out = tmp_path / str(event)
        if not killed_at(out, output, event):
            break
        kills += 1
        if event % 3 == 0:
            killed_at(out, output, 13)  # and again on the way
        result = write(out, output)
        assert result.images == 6
        assert files(out) == expected, f"killed before touch {event}"
        assert write(out, output).computed == 0
    else:
        raise AssertionError("it was never finished")
    assert kills >= 5


@each_packed
def test_a_kill_while_packing_computes_nothing_again(
    output: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need(output.format)
    write(tmp_path / "whole", output)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("dpd_runtime.dataset.contact_sheet", stop)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "cut", output)
    assert (tmp_path / "cut" / "state.jsonl").exists()
    assert not (tmp_path / "cut" / "dataset.json").exists()
    check_output_folder(tmp_path / "cut")
    assert write(tmp_path / "cut", output).computed == 0
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


@each_packed
@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "a torn state"])
def test_a_damaged_block_is_made_again_and_no_other(
    output: Output, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need(output.format)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "cut"
    with monkeypatch.context() as patched:
        patched.setattr("dpd_runtime.dataset.complete", stop)
        with pytest.raises(KeyboardInterrupt):
            write(out, output)
    waiting = out / ".unfinished" / "Forest"
    content = (waiting / "Forest_00001.png").read_bytes()
    if damage == "cut":
        (waiting / "Forest_00001.png").write_bytes(content[:-40])
    elif damage == "changed":
        (waiting / "Forest_00001.png").write_bytes((waiting / "Forest_00002.png").read_bytes())
    elif damage == "gone":
        (waiting / "Forest_00001.png").unlink()
    else:
        state = (out / "state.jsonl").read_bytes()
        (out / "state.jsonl").write_bytes(state[:-10])
    assert write(out, output).computed == 3
    write(tmp_path / "whole", output)
    assert files(out) == files(tmp_path / "whole")


@each
def test_a_complete_set_is_only_looked_at(output: Output, tmp_path: Path) -> None:
    need(output.format)
    first = write(tmp_path, output)
    before = files(tmp_path)
    again = drawn()
    second = write_set(again, tmp_path, output=output)
    assert again.blocks_computed == 0
    assert (second.computed, second.set_hash, second.images) == (0, first.set_hash, first.images)
    assert files(tmp_path) == before


@each
def test_damage_to_a_complete_set_is_found_and_mended(output: Output, tmp_path: Path) -> None:
    need(output.format)
    write(tmp_path, output)
    before = files(tmp_path)
    for name in before:
        if name == "dataset.json":
            continue  # what makes the folder ours
        content = before[name]
        middle = len(content) // 2
        if name == "metadata.jsonl" and output.direct:
            damaged = content[:middle]  # nothing says what else its lines were
        else:
            damaged = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        (tmp_path / name).write_bytes(damaged)
        write(tmp_path, output)
        assert files(tmp_path) == before, name
        (tmp_path / name).unlink()
        write(tmp_path, output)
        assert files(tmp_path) == before, name


@each_packed
def test_a_packed_set_does_not_change_in_size(output: Output, tmp_path: Path) -> None:
    need(output.format)
    write(tmp_path, output)
    before = files(tmp_path)
    for ipc in (2, 12):
        with pytest.raises(OutputFolderError, match=r"3 images per class, which cannot change.*or pass --overwrite"):
            write(tmp_path, output, ipc=ipc)
    softer = Output(output.format, output.image_format, soft_labels=True)
    with pytest.raises(OutputFolderError, match="set with no soft labels, which cannot change"):
        write(tmp_path, softer)
    assert files(tmp_path) == before


def test_an_unfinished_packed_set_may_become_larger(tmp_path: Path) -> None:
    assert killed_at(tmp_path / "cut", Output("npz"), 25)
    assert write(tmp_path / "cut", Output("npz"), ipc=12).images == 24
    write(tmp_path / "whole", Output("npz"), ipc=12)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


@each
@pytest.mark.parametrize("finished", [True, False])
def test_another_format_is_refused_by_name(output: Output, finished: bool, tmp_path: Path) -> None:
    need(output.format)
    if finished:
        write(tmp_path, output)
    else:
        killed_at(tmp_path, output, 25)
    before = files(tmp_path)
    for other in (Output(image_format="tiff"), Output("webdataset", "jpeg")):
        with pytest.raises(OutputFolderError, match=r"holds a set made with another (format|image_format)\b"):
            write(tmp_path, other)
    assert files(tmp_path) == {name: content for name, content in before.items() if not name.startswith(".lock")}


@each
@pytest.mark.parametrize("touches", [None, 9, 30])
def test_remove_set_takes_every_file_of_the_format(output: Output, touches: int | None, tmp_path: Path) -> None:
    need(output.format)
    if touches is None:
        write(tmp_path, Output(output.format, output.image_format, soft_labels=True))
    else:
        assert killed_at(tmp_path, output, touches)
    for name in ("state.jsonl.partial", "metadata.jsonl.partial"):
        (tmp_path / name).write_bytes(b"killed here")
    remove_set(tmp_path)
    assert list(tmp_path.iterdir()) == []


@each
def test_a_kill_while_a_set_is_removed_leaves_one_that_can_be_removed(output: Output, tmp_path: Path) -> None:
    need(output.format)
    write(tmp_path / "set", output)

    def action() -> int:
        left = 4

        def count(name: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            left -= name in ("os.remove", "os.rmdir")
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        remove_set(tmp_path / "set")
        return 0

    before = files(tmp_path / "set")
    in_a_child(action)
    assert files(tmp_path / "set") != before
    remove_set(tmp_path / "set")
    assert list((tmp_path / "set").iterdir()) == []


@each
@pytest.mark.parametrize("mine", ["set.npz", "set.parquet", "shard-000000.tar", "Forest/Forest_00000.jpg", "a.npz"])
def test_remove_set_knows_its_own_format_only(output: Output, mine: str, tmp_path: Path) -> None:
    need(output.format)
    write(tmp_path, output)
    if (tmp_path / mine).exists():
        return
    (tmp_path / mine).parent.mkdir(exist_ok=True)
    (tmp_path / mine).write_text("mine")
    before = files(tmp_path)
    with pytest.raises(OutputFolderError, match="not part of a distilled set"):
        remove_set(tmp_path)
    assert files(tmp_path) == before


def test_a_set_of_a_format_from_the_future_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path, Output("npz"))
    dataset = json.loads((tmp_path / "dataset.json").read_text())
    dataset["made_with"]["format"] = "zarr"
    (tmp_path / "dataset.json").write_text(json.dumps(dataset))
    with pytest.raises(OutputFolderError, match=r"holds set\.npz, which is not part"):
        remove_set(tmp_path)
    with pytest.raises(OutputFolderError, match="made with another format"):
        write(tmp_path, Output("npz"))


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "imagefolder"])
def test_a_disk_which_is_full_while_packing(name: str, tmp_path: Path) -> None:
    """The limit on file sizes is above that of an image and below that of the packed file."""
    need(name)

    def action() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, 15_000))
        try:
            write(tmp_path / "full", Output(name))
        except DiskError as error:
            return 5 if "finished images are kept" in str(error) else 1
        return 0

    assert in_a_child(action) == 5
    assert [p.name for p in (tmp_path / "full").iterdir() if p.name.startswith("set.") or "shard" in p.name] == []
    assert write(tmp_path / "full", Output(name)).computed == 0
    write(tmp_path / "whole", Output(name))
    assert files(tmp_path / "full") == files(tmp_path / "whole")
