"""Machines without a home folder, with full disks, closed streams, or somebody's modules in the working folder."""

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from dpd_runtime.errors import DiskError
from dpd_runtime.files import cache_folder, check_writable, disk_fault, expanded, naming, open_atomically, spare_cache
from tests.squares import write_squares

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="without PyTorch the missing extra is named first")
WITHOUT_HOME = """
import os, pwd

def nobody(number):
    raise KeyError(f"getpwuid(): uid not found: {number}")

pwd.getpwuid = nobody
os.environ.pop("HOME", None)
from dpd_cli.main import main
main()
"""
"""What a process of a user id without a name and without HOME sees: OpenShift, DynamicUser, docker --user 12345."""


def can_mount() -> bool:
    command = ["unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


needs_mount = pytest.mark.skipif(not can_mount(), reason="this user may not mount a small disk in a namespace")


@pytest.fixture
def environment(process_environment: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in process_environment.items() if not name.startswith("XDG_")}


def python(
    program: str, arguments: str, environment: dict[str, str], folder: Path
) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", program, *arguments.split()]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def on_small_disk(
    size: str, command: list[str], environment: dict[str, str], folder: Path
) -> tuple[int, str, list[str]]:
    """Run a command that may write to /mnt, a disk of that size. Returns its code, its words and what is left there."""
    script = f'mount -t tmpfs -o size={size} tmpfs /mnt; "$@"; code=$?; ls -A /mnt | sed s/^/left:/; exit $code'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "_", *command],
        **{"cwd": folder, "env": environment, "capture_output": True, "text": True, "check": False},
    )
    left = [line.removeprefix("left:") for line in done.stdout.splitlines() if line.startswith("left:")]
    return done.returncode, done.stderr, left


@pytest.mark.parametrize("arguments", ["info", "generate --ipc 1 --classes Forest --out set", "doctor", "keygen lab"])
def test_without_a_home_folder_a_site_works(arguments: str, environment: dict[str, str], tmp_path: Path) -> None:
    done = python(WITHOUT_HOME, arguments, environment, tmp_path)
    assert (done.returncode, done.stderr.replace("generating", "")) == (0, done.stderr), done.stderr
    assert "RuntimeError" not in done.stdout + done.stderr
    if "generate" in arguments:
        assert (tmp_path / "set" / "dataset.json").is_file()


@needs_torch
@pytest.mark.parametrize(
    "arguments",
    ["train scenes --out run", "evaluate scenes --train scenes --test val", "audit scenes --train scenes"],
)
def test_what_needs_a_cache_says_so_before_it_computes(
    arguments: str, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "scenes").mkdir()
    write_squares(tmp_path / "scenes", 24, 6)
    done = python(WITHOUT_HOME, arguments, environment, tmp_path)
    assert done.returncode == 5, done.stderr
    (line,) = done.stderr.splitlines()
    assert "there is no home folder for dpd/" in line
    assert "set XDG_CACHE_HOME (or HOME) to a folder that can be written" in line
    (tmp_path / "file").write_text("no folder")
    done = python("from dpd_cli.main import main; main()", arguments, environment | {"HOME": "/proc"}, tmp_path)
    assert done.returncode == 5, done.stderr
    assert done.stderr.startswith("dpd: /proc/.cache/dpd/"), done.stderr
    assert "set XDG_CACHE_HOME to a folder that can" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "scenes"]


def test_a_home_that_is_not_known_is_no_error_of_a_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert expanded("~nobody-of-this-name/base") == Path("~nobody-of-this-name/base")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert expanded("~/base") == tmp_path / "base"
    assert spare_cache("x") == cache_folder("x") == tmp_path / ".cache" / "dpd" / "x"
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert spare_cache("x") is None
    with pytest.raises(DiskError, match="no home folder for dpd/x"):
        cache_folder("x")


def _pillow(path: Path, content: np.ndarray) -> None:
    from PIL import Image

    Image.fromarray(content.reshape(1000, 1000)).save(path, format="PNG")


def _arrow(path: Path, content: np.ndarray) -> None:
    arrow, parquet = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
    parquet.write_table(arrow.table({"x": content}), path, compression="none", use_dictionary=False)


def _rasterio(path: Path, content: np.ndarray) -> None:
    rasterio = pytest.importorskip("rasterio")
    size = {"width": 1000, "height": 1000, "count": 1, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", **size) as file:
        file.write(content.reshape(1, 1000, 1000))


WRITERS: dict[str, Callable[[Path, np.ndarray], None]] = {
    "python": lambda path, content: path.write_bytes(content.tobytes()) and None,
    "numpy": lambda path, content: content.tofile(path),
    "safetensors": lambda path, content: save_file({"x": content}, path),
    "pillow": _pillow,
    "pyarrow": _arrow,
    "rasterio": _rasterio,
}
FULL = """
import sys, warnings
from pathlib import Path
import numpy as np
warnings.simplefilter("ignore")
from dpd_runtime.files import naming
from tests.refuse.test_unusual_machines import WRITERS
content = np.random.default_rng(0).integers(0, 256, 1_000_000).astype(np.uint8)
try:
    with naming(Path("/mnt/file")):
        WRITERS[sys.argv[1]](Path("/mnt/file"), content)
except OSError as error:
    print(error.errno, error.filename, file=sys.stderr)
"""


@needs_mount
@pytest.mark.parametrize("library", WRITERS)
def test_a_full_disk_is_known_whatever_a_library_says_of_it(
    library: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """safetensors has an error of its own with the number in its text; numpy and GDAL do not say why."""
    root = str(Path(__file__).parents[2])
    environment = environment | {"PYTHONPATH": os.pathsep.join([environment["PYTHONPATH"], root])}
    code, said, _ = on_small_disk("64k", [sys.executable, "-c", FULL, library], environment, tmp_path)
    if "Skipped" in said:
        pytest.skip(f"{library} is not installed")
    assert code == 0, said
    assert said.splitlines()[-1] == "28 /mnt/file", said


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    for error in (ValueError("28 apples"), FileNotFoundError(2, "No such file", "x"), DiskError("said already")):
        assert disk_fault(error) is None
        with pytest.raises(type(error)) as raised, naming(tmp_path):
            raise error
        assert raised.value is error


def test_an_error_that_came_from_a_disk_is_one(tmp_path: Path) -> None:
    try:
        try:
            raise OSError(122, os.strerror(122))
        except OSError as error:
            raise RuntimeError("cannot write") from error
    except RuntimeError as error:
        fault = disk_fault(error)
    assert fault is not None
    assert fault.errno == 122
    path = tmp_path / "state"
    with pytest.raises(OSError, match=os.strerror(28)) as raised, open_atomically(path):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert (raised.value.errno, raised.value.filename) == (28, str(path))
    assert list(tmp_path.iterdir()) == []


@needs_mount
@pytest.mark.parametrize(
    ("size", "arguments", "words"),
    [
        ("4k", "keygen /mnt/a/lab", "/mnt/a/lab.pub: the disk is full"),
        ("100k", "generate --ipc 10 --out /mnt/set", "/mnt/set: the disk is full; finished images are kept"),
        pytest.param("2m", "train scenes --out /mnt/run", "/mnt/run: the folder /mnt cannot", marks=needs_torch),
    ],
)
def test_a_command_on_a_full_disk_ends_with_5(
    size: str, arguments: str, words: str, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "scenes").mkdir()
    write_squares(tmp_path / "scenes", 24, 6)
    environment = environment | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "dpd_cli", *arguments.split()]
    code, said, left = on_small_disk(size, command, environment, tmp_path)
    assert (code, words in said) == (5, True), said
    assert "internal error" not in said
    assert left == ([] if "train" in arguments else left)


@needs_mount
def test_a_place_is_tried_and_measured(tmp_path: Path, environment: dict[str, str]) -> None:
    program = """
from pathlib import Path
from dpd_runtime.files import check_writable
from dpd_runtime.errors import DiskError
check_writable(Path("/mnt/new/deeper"))
check_writable(Path("/mnt/new"), room=60_000)
for fill, room in ((0, 70_000), (65_536, 0)):
    Path("/mnt/old").write_bytes(bytes(fill))
    try:
        check_writable(Path("/mnt/new"), room=room)
    except DiskError as error:
        print(error)
"""
    script = 'mount -t tmpfs -o size=64k tmpfs /mnt; "$@"'
    command = ["unshare", "-m", "sh", "-c", script, "_", sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert (
        "the disk is full: 0 MB are free, and at least 0 MB are needed); choose another --out, or free space" in first
    )
    assert "/mnt/new: the folder /mnt cannot be written (the disk is full); choose another --out" in second


def test_nothing_is_left_where_a_place_was_tried(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "deeper", room=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.full
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_go_nowhere(closed: str, process_environment: dict[str, str], tmp_path: Path) -> None:
    """Otherwise a file that is opened later has the number of a stream, and texts land in it."""
    generate = "generate --ipc 1 --classes Forest --out set --json"
    for arguments in ("info --json", generate, "info nothing.dpd"):
        line = f'"{sys.executable}" -m dpd_cli {arguments} {closed}'
        done = subprocess.run(
            ["sh", "-c", line], cwd=tmp_path, env=process_environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == (2 if "nothing" in arguments else 0), done.stderr
        assert "Error" not in done.stderr
    for path in (tmp_path / "set").rglob("*"):
        assert path.is_dir() or b"signature" not in path.read_bytes()[:9]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_to_a_full_disk_is_an_error_in_one_line(
    unbuffered: str, process_environment: dict[str, str], tmp_path: Path
) -> None:
    if not Path("/dev/full").is_char_device():
        pytest.skip("this system has no /dev/full")
    process_environment = process_environment | {"PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "dpd_cli", "keygen", "lab"]
        done = subprocess.run(
            command, env=process_environment, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 5
    (line,) = done.stderr.splitlines()
    assert line.startswith("dpd: standard output: the disk is full (No space left on device)")


TALKING = """
import sys
from dpd_cli import terminal as interrupts
interrupts.prepare_streams()
for _ in range(3):
    print("step", file=sys.stderr, flush=True)
open("done", "w").close()
"""


@pytest.mark.parametrize("gone", ["pipe", "full", "terminal"])
def test_what_is_said_of_progress_ends_nothing(gone: str, environment: dict[str, str], tmp_path: Path) -> None:
    if gone == "pipe":
        other, end = os.pipe()
    elif gone == "terminal":
        other, end = pty.openpty()
    else:
        other, end = os.open(os.devnull, os.O_RDONLY), os.open("/dev/full", os.O_WRONLY)
    os.close(other)
    subprocess.run([sys.executable, "-c", TALKING], cwd=tmp_path, env=environment, stderr=end, check=True)
    os.close(end)
    assert (tmp_path / "done").exists()


HUNG_UP = """
import os, signal, sys, time
from dpd_cli import terminal as interrupts
interrupts.install()
print("ready", flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    os.kill(os.getpid(), signal.SIGHUP)  # the shell tells it too
    time.sleep(0.2)
    print("kept", flush=True)
"""


@pytest.mark.parametrize("ignored", [False, True], ids=["terminal", "nohup"])
def test_a_closed_terminal_ends_a_command_as_ctrl_c_does(ignored: bool, environment: dict[str, str]) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", HUNG_UP.replace("60", "1")], env=environment, stdout=subprocess.PIPE, text=True
        )
    finally:
        signal.signal(signal.SIGHUP, before)
    assert process.stdout is not None
    with process.stdout as out:
        assert out.readline() == "ready\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGHUP)
        said = out.read()
    assert process.wait(30) == 0
    assert said == ("" if ignored else "kept\n")


MODULES = ("numpy", "yaml", "PIL", "random", "typing_extensions", "msgspec", "site", "usercustomize")


@pytest.mark.parametrize(
    "started", [["-m", "dpd_cli"], ["-c", "import sys; sys.path.pop(0); from dpd_cli.main import main; main()"]]
)
def test_nothing_is_imported_from_the_working_folder(
    started: list[str], process_environment: dict[str, str], tmp_path: Path
) -> None:
    """A bundle that nobody signed runs in another process, which is one more that must not import them."""
    for name in MODULES:
        (tmp_path / f"{name}.py").write_text(f"open('ran_{name}', 'w').close(); raise ImportError('foreign')")
    arguments = ["generate", "--ipc", "1", "--classes", "Forest", "--out", "set", "--json"]
    (tmp_path / "foreign").mkdir()
    done = subprocess.run(
        [sys.executable, *started, *arguments],
        **{"cwd": tmp_path, "env": process_environment, "capture_output": True, "text": True, "check": False},
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("ran_*")) == []


@needs_torch
def test_processes_that_a_command_starts_import_nothing_from_there_either(
    process_environment: dict[str, str], tmp_path: Path
) -> None:
    """`dpd demo` starts commands, `dpd evaluate --jobs` students."""
    for name in ("numpy", "socket", "pickle"):
        (tmp_path / f"{name}.py").write_text(f"open('ran_{name}', 'w').close(); raise ImportError('foreign')")
    demo = "from dpd_train import drawn_scenes; drawn_scenes.write_scenes = lambda *_, **__: None\n"
    demo = f"import sys; sys.path.pop(0)\n{demo}from dpd_cli.main import main; main()"
    done = python(demo, "demo --out made", process_environment, tmp_path)
    assert done.returncode == 2, done.stderr  # of the first command that it starts, which finds no scenes
    assert "made/scenes: no such folder" in done.stderr
    assert list(tmp_path.glob("ran_*")) == []
    spawn = (
        "import os, sys; sys.path.pop(0); sys.argv = ['dpd', '--version']\n"
        "from multiprocessing import get_context\n"
        "from dpd_cli.main import main\n"
        "if __name__ == '__main__':\n"
        "    try:\n        main()\n    except SystemExit:\n        pass\n"
        "    process = get_context('spawn').Process(target=os.getpid)\n"
        "    process.start()\n    process.join()\n    sys.exit(process.exitcode)\n"
    )
    done_too = python(spawn, "", process_environment, tmp_path)
    assert done_too.returncode == 0, done_too.stderr
    assert list(tmp_path.glob("ran_*")) == []
