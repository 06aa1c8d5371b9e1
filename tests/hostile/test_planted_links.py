"""Another user of a shared folder plants links below --out: no file outside is read into, cut or replaced."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dpd_runtime import Output, write_set
from dpd_runtime.dataset import check_output_folder, finished_set, remove_set
from dpd_runtime.errors import OutputFolderError, OutputLinkError
from dpd_runtime.files import FileLock, final_name, open_atomically, open_regular, write_atomically
from dpd_runtime.set_state import Shard, State
from tests.commands import dpd
from tests.drawn import drawn, files, write
from tests.unit.runtime.test_dataset import HEADER

SECRET = b"a file of the user, outside\n"
LOSSY = Output(image_format="jpeg")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder with files that an attacker wants to have overwritten."""
    folder = tmp_path / "outside"
    folder.mkdir()
    for name in ("victim", "Forest_00000.png", "Forest_00000.jpg", "Forest_00000.png.partial"):
        (folder / name).write_bytes(SECRET)
    return folder


def untouched(outside: Path) -> bool:
    return len(files(outside)) == 4 and set(files(outside).values()) == {SECRET}


FILES = [
    ".lock",
    ".lock-0-of-1",
    ".lock-1-of-2",
    "state.jsonl",
    "state.jsonl.partial",
    "dataset.json",
    "metadata.jsonl",
    "metadata.jsonl.partial",
    "contact_sheet.png.partial",
    "set.npz.partial",
    "Forest/Forest_00000.png",
    "Forest/Forest_00000.png.partial",
    ".unfinished/Forest/Forest_00000.png.partial",
]


@pytest.mark.parametrize("killed", [False, True], ids=["empty", "unfinished"])
@pytest.mark.parametrize("name", FILES)
def test_a_planted_link_to_a_file_is_refused_by_name(name: str, killed: bool, tmp_path: Path, outside: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    if killed:
        State(out, HEADER, 3)
    link = out / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(outside / "victim")
    for output in (Output(), LOSSY, Output("npz")):
        with pytest.raises(ValueError, match=r"symbolic link; dpd writes|is not a distilled set") as caught:
            write_set(drawn(), out, output=output)
        assert getattr(caught.value, "exit_code", None) == 2
        if isinstance(caught.value, OutputLinkError):
            assert str(link) in str(caught.value)
    assert untouched(outside)
    assert link.is_symlink()


@pytest.mark.parametrize("folder", ["Forest", ".unfinished", ".unfinished/Forest"])
@pytest.mark.parametrize("output", [Output(), LOSSY, Output("npz")], ids=["png", "jpeg", "npz"])
def test_a_planted_link_to_a_folder_is_refused_by_name(
    output: Output, folder: str, tmp_path: Path, outside: Path
) -> None:
    out = tmp_path / "out"
    write(out, output)
    (out / "dataset.json").unlink()
    (out / "state.jsonl").write_text('{"bundle": "", "seed": 0, "sampler": {}, "classes": []}\n')
    link = out / folder
    if link.is_dir():
        for path in link.iterdir():
            path.unlink()
        link.rmdir()
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(outside, target_is_directory=True)
    for action in (check_output_folder, remove_set, lambda out: write(out, output)):
        with pytest.raises(OutputLinkError, match="delete it or choose another --out") as caught:
            action(out)
        assert str(link) in str(caught.value)
    assert untouched(outside)


def test_a_link_that_comes_while_the_networks_load_is_refused(tmp_path: Path, outside: Path) -> None:
    generation = drawn()
    load = generation.load

    def plant() -> object:
        (tmp_path / "out").mkdir(exist_ok=True)
        if not (tmp_path / "out" / "Forest").is_symlink():
            (tmp_path / "out" / "Forest").symlink_to(outside)
        return load()

    generation.load = plant  # type: ignore[method-assign, assignment]
    with pytest.raises(OutputLinkError, match="Forest: is a symbolic link"):
        write_set(generation, tmp_path / "out")
    assert untouched(outside)


def test_an_image_is_not_written_through_a_linked_folder(tmp_path: Path, outside: Path) -> None:
    """The folder becomes a link after all checks, while images are computed."""
    (tmp_path / "out" / ".unfinished").mkdir(parents=True)
    (tmp_path / "out" / "Forest").symlink_to(outside)
    (tmp_path / "out" / ".unfinished" / "Forest").symlink_to(outside)
    for name in ("Forest/Forest_00000.png", ".unfinished/Forest/Forest_00000.png"):
        with pytest.raises(OutputLinkError, match="Forest: is a symbolic link"):
            write_atomically(tmp_path / "out" / name, b"image", below=tmp_path / "out")
    assert untouched(outside)


def a_pipe(path: Path, outside: Path) -> None:
    os.mkfifo(path)


def a_hard_link(path: Path, outside: Path) -> None:
    path.hardlink_to(outside / "victim")


@pytest.mark.parametrize(
    ("plant", "said"), [(a_pipe, "pipe, socket or device"), (a_hard_link, "hard link to another file")]
)
@pytest.mark.parametrize("name", [".lock", ".lock-0-of-1", ".lock-0-of-2"])
def test_a_lock_that_is_no_own_file_is_refused(
    plant: Callable[[Path, Path], None], said: str, name: str, tmp_path: Path, outside: Path
) -> None:
    (tmp_path / "out").mkdir()
    plant(tmp_path / "out" / name, outside)
    with pytest.raises(OutputLinkError, match=said):
        write_set(drawn(), tmp_path / "out", shard=Shard(0, 2))
    assert untouched(outside)


def test_the_lock_itself_follows_no_link(tmp_path: Path, outside: Path) -> None:
    for target in (outside / "victim", outside / "absent"):
        link = tmp_path / f"lock-{target.name}"
        link.symlink_to(target)
        with pytest.raises(OutputLinkError, match="symbolic link"):
            FileLock(link).acquire()
    assert untouched(outside)


def test_the_state_is_not_appended_through_a_link(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "out").mkdir()
    state = State(tmp_path / "out", HEADER, 2)
    state.path.unlink()
    state.path.symlink_to(outside / "victim")
    with pytest.raises(OSError, match="symbolic links"):
        state.append([{"file_name": "a", "index": 0}])
    assert untouched(outside)


def test_partial_names_are_random_and_recognised(tmp_path: Path) -> None:
    names = set()
    for _ in range(20):
        with open_atomically(tmp_path / "set.npz") as handle:
            handle.write(b"new")
            names |= {path.name for path in tmp_path.iterdir()} - {"set.npz"}
    assert len(names) == 20
    assert {final_name(name) for name in names} == {"set.npz"}
    assert final_name("set.npz.partial") == "set.npz"
    assert final_name("a.b0123456789abcdef.png") == "a.b0123456789abcdef.png"


def test_an_old_partial_name_is_not_written_through(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "report.html.partial").symlink_to(outside / "victim")
    (tmp_path / "final.html").symlink_to(outside / "victim")
    write_atomically(tmp_path / "report.html", b"page")
    write_atomically(tmp_path / "final.html", b"page")  # replaces the link, not its target
    assert (tmp_path / "report.html").read_bytes() == (tmp_path / "final.html").read_bytes() == b"page"
    assert untouched(outside)


def test_an_output_folder_may_itself_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    assert write(tmp_path / "out", LOSSY).set_hash == write(tmp_path / "plain", LOSSY).set_hash
    assert files(tmp_path / "disk") == files(tmp_path / "plain")
    remove_set(tmp_path / "out")
    assert list((tmp_path / "disk").iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give a folder away")
def test_a_set_that_another_user_has_prepared_is_not_finished(tmp_path: Path) -> None:
    """Its images may be anything: the state file that says they are ours is theirs too."""
    write(tmp_path / "out", Output())
    (tmp_path / "out" / "dataset.json").unlink()
    os.chown(tmp_path / "out", 65532, -1)
    with pytest.raises(
        OutputFolderError, match=r"belongs to another user \(uid 65532\), who may have put images there"
    ):
        write(tmp_path / "out", Output())
    with pytest.raises(OutputFolderError, match="belongs to another user"):
        remove_set(tmp_path / "out")
    (tmp_path / "empty").mkdir()
    os.chown(tmp_path / "empty", 65532, -1)
    assert write(tmp_path / "empty", Output()).images == 6
    (tmp_path / "own").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "own")
    os.lchown(tmp_path / "link", 65532, -1)
    with pytest.raises(OutputFolderError, match="belongs to another user"):
        write(tmp_path / "link", Output())
    assert files(tmp_path / "own") == {}


def test_a_record_cannot_name_a_file_outside(tmp_path: Path, outside: Path) -> None:
    """Its hash would say what the file holds."""
    made = write(tmp_path / "out", Output("npz"))
    record = json.loads((tmp_path / "out" / "dataset.json").read_text())
    secret = hashlib.sha256(SECRET).hexdigest()
    for name in ("../outside/victim", str(outside / "victim")):
        changed = record | {"files": record["files"] | {name: secret}}
        (tmp_path / "out" / "dataset.json").write_text(json.dumps(changed))
        assert finished_set(tmp_path / "out", record["made_with"], record["ipc"], Output("npz")) is None
        assert write(tmp_path / "out", Output("npz")).set_hash == made.set_hash
        assert name not in json.loads((tmp_path / "out" / "dataset.json").read_text())["files"]


@pytest.mark.parametrize("output", [Output(), LOSSY, Output("npz")], ids=["png", "jpeg", "npz"])
def test_partial_files_of_killed_processes_are_removed(output: Output, tmp_path: Path) -> None:
    make = ["state.jsonl", "dataset.json", "Forest/Forest_00001.png", ".unfinished/Forest/Forest_00001.png", "set.npz"]
    write(tmp_path / "whole", output)
    generation = drawn()
    write_set(generation, tmp_path / "out", output=output, shard=Shard(0, 2))  # unfinished
    left = []
    for name in make:
        own = {"set.npz": output.format == "npz", ".unfinished/Forest/Forest_00001.png": not output.direct}
        if own.get(name, True) and (name != "Forest/Forest_00001.png" or output.direct):
            left.append(tmp_path / "out" / f"{name}.0123456789abcdef.partial")
            left[-1].parent.mkdir(parents=True, exist_ok=True)
            left[-1].write_bytes(b"killed here")
    write(tmp_path / "out", output)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_dpd_generate_ends_with_exit_code_2_and_one_line(
    tmp_path: Path, outside: Path, process_environment: dict[str, str]
) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock-0-of-1").symlink_to(outside / "victim")
    done = dpd(["generate", "--ipc", "1", "--out", str(tmp_path / "out")], process_environment, tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"{tmp_path}/out/.lock-0-of-1: is a symbolic link" in done.stderr
    assert untouched(outside)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for name in ("pipe", "link", "."):
        with pytest.raises(OSError, match="not a regular file"):
            open_regular(tmp_path / name)
