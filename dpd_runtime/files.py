"""Files: written beside their name and renamed, locked, and strict JSON."""

import errno
import json
import logging
import os
import re
import secrets
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from dpd_runtime.errors import BundleError, DiskError, DpdError, InputError, OutputLinkError
from dpd_runtime.text import is_visible

try:
    import fcntl
except ImportError:  # Windows: nothing keeps two processes apart there
    fcntl = None  # type: ignore[assignment]


# -- Files written completely or not at all, full disks, the user's folders, JSON objects, file names, no links.


PARTIAL = ".partial"
_log = logging.getLogger(__name__)
_PARTIAL_END = re.compile(r"(\.[0-9a-f]{16})?\.partial$")
# Windows opens a device for these names, whatever ending they have.
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|clock\$|(com|lpt)[0-9\u00b9\u00b2\u00b3]) *(\..*)?", re.I)
DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)
"""Numbers of errors that a disk makes: full, over the quota, read-only, a file too large for it, broken."""
FULL = "the disk is full"
CACHE_VARIABLE = "XDG_CACHE_HOME"
TRIED = 4096  # bytes that are written to see whether a folder can be filled
NO_FOLLOW: int = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
"""Flags of os.open: fail for a symbolic link, and do not wait for the other end of a pipe."""


@contextmanager
def open_atomically(path: Path, below: Path | None = None, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Open a temporary binary file beside `path`, which replaces `path` when the block ends without an error.

    Its name is random and new, so that nobody can put a link there before. If the process is killed, `path` is the old
    file or the new one, and a file with the suffix .partial may remain.

    Args:
        below: a folder around `path`; the folders between them must not be symbolic links.
        mode: permissions of a new file, from its creation on, less the umask.

    Raises:
        OutputLinkError: a folder between `below` and `path` is a link.
    """
    if below is not None:
        _check_folders(path.parent, below)
    partial = path.with_name(f"{path.name}.{secrets.token_hex(8)}{PARTIAL}")
    try:
        # O_CREAT | O_EXCL, which follows no link; the handle knows its path, to which libraries may write
        with (
            naming(path),
            open(partial, "xb", opener=lambda path, flags: os.open(path, flags, mode)) as handle,
        ):
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: bytes, below: Path | None = None) -> None:
    """Replace `path` in one step, as `open_atomically` does."""
    with open_atomically(path, below) as handle:
        handle.write(content)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let the error of a full or broken disk name what was being written, where it names no file itself.

    Libraries write with errors of their own, and Python's `write` knows no name: whoever opens a file or fills a folder
    by them does it within this.

    Raises:
        OSError: of the disk, with its number and `path`, whatever error told of it.
    """
    try:
        yield
    except Exception as error:
        if hasattr(error, "exit_code"):  # one of ours, or of the command line: it says what happened
            raise
        fault = disk_fault(error)
        if fault is None and getattr(error, "errno", None) is None and _refusal(path, 0)[1] == FULL:
            fault = OSError(errno.ENOSPC, FULL)  # numpy, PIL's TIFF, PyTorch and GDAL do not say why
        if fault is None or fault.filename is not None:
            raise
        raise OSError(fault.errno, os.strerror(fault.errno or 0), str(path)) from error


def disk_fault(error: BaseException) -> OSError | None:
    """The fault of a disk (see `DISK_FAULTS`) behind an error; None for another error.

    It is the error itself, the one that it was raised from, or one of which only the text is left: safetensors says
    "I/O error: No space left on device (os error 28)" and is no OSError.
    """
    seen: BaseException | None = None if isinstance(error, DpdError) else error  # which says what happened
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in DISK_FAULTS:
            return seen
        text = str(seen)
        for number in DISK_FAULTS:
            if os.strerror(number) in text or re.search(rf"\b(os error|errno) {number}\b", text, re.I):
                return OSError(number, os.strerror(number))
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return None


def final_name(name: str) -> str:
    """The name that a file has when it is complete."""
    return _PARTIAL_END.sub("", name)


def open_regular(path: Path, *, follow: bool = True) -> BufferedReader:
    """Open a regular file for reading, without waiting for a pipe or device.

    Args:
        follow: whether `path` may be a symbolic link to it.

    Raises:
        OSError: no such file, or not a regular one.
    """
    descriptor = os.open(path, os.O_RDONLY | (NO_FOLLOW if not follow else getattr(os, "O_NONBLOCK", 0)))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def check_no_links(folder: Path) -> None:
    """Check that below `folder`, which may be a link itself, are only plain files and folders.

    Raises:
        OutputLinkError: there is a symbolic link, pipe, socket or device.
    """
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent, name) for name in (*folders, *files)):
            check_plain(path)


def check_plain(path: Path) -> None:
    """Check that `path` is missing, or a plain file or folder.

    Raises:
        OutputLinkError: it is a symbolic link, pipe, socket or device.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:  # another process has just completed or deleted it
        return
    if stat.S_ISLNK(mode):
        raise OutputLinkError(path)
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OutputLinkError(path, "a pipe, socket or device")


def _check_folders(folder: Path, below: Path) -> None:
    for part in (folder, *folder.parents):
        if part == below:
            return
        check_plain(part)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def check_file_place(option: str, path: Path) -> None:
    """Check, before a long computation, that a file may be written to `path`.

    Raises:
        InputError: its folder is not there, or `path` is a folder.
        DiskError: as `check_writable`.
    """
    if not path.parent.is_dir():
        raise InputError(f"{option} {path}: the folder {path.parent} does not exist; create it first")
    if path.is_dir():
        raise InputError(f"{option} {path}: is a folder; give the name of a file")
    check_writable(path)


def check_above(path: Path, way: str = "choose another place") -> None:
    """Check that no file is where a folder above `path` must be.

    Args:
        way: how to choose another one.

    Raises:
        InputError: one is.
    """
    nearest = next(above for above in path.absolute().parents if os.path.lexists(above))
    if nearest.exists() and not nearest.is_dir():
        raise InputError(f"{nearest}: is a file, where a folder must be; {way}")


def check_writable(out: Path, room: int = 0) -> None:
    """Check, before anything is computed, that a file or folder can be made at `out`, or the folder there be filled.

    Args:
        room: bytes that will be written there at least.

    Raises:
        InputError: what should be a folder above `out` is a file.
        DiskError: the nearest folder that exists is read-only, or its disk is full.
    """
    check_above(out)
    folder, reason = _refusal(out, room)
    if reason:
        raise DiskError(
            f"{out}: the folder {folder} cannot be written ({reason}); choose another --out, or {_way(reason)}"
        )


def check_cache(folder: Path, way: str = f"set {CACHE_VARIABLE} to a folder that can") -> None:
    """Check, before anything is computed, that a folder of `user_folder` can be made and filled.

    Args:
        way: how to choose another one.

    Raises:
        InputError: a file is there, or above it.
        DiskError: it cannot.
    """
    check_above(folder / "content", way)
    nearest, reason = _refusal(folder, 0)
    if reason:
        raise DiskError(f"{folder}: the folder {nearest} cannot be written ({reason}); {way}, or {_way(reason)}")


def _refusal(out: Path, room: int) -> tuple[Path, str]:
    """The nearest folder that exists, and why nothing can be written there; an empty text if it can.

    The system's answer about permissions does not know quotas and full disks: a file without a name is written.
    """
    import shutil
    import tempfile  # not for --help

    folder = out.absolute()
    while not os.path.lexists(folder):  # unlike Path.exists no error below a folder that is closed to us
        folder = folder.parent
    if not folder.is_dir():
        folder = folder.parent  # a file is replaced by another one beside it
    if not os.access(folder, os.W_OK | os.X_OK):
        return folder, "this user has no permission"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(TRIED))
            file.flush()
            os.fsync(file.fileno())
        disk = shutil.disk_usage(folder)
    except OSError as error:
        return folder, FULL if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error.strerror or error)
    if disk.total and disk.free < room:  # some network disks say nothing
        return folder, f"{FULL}: {disk.free / 1e6:.0f} MB are free, and at least {room / 1e6:.0f} MB are needed"
    return folder, ""


def _way(reason: str) -> str:
    return "free space there" if reason.startswith(FULL) else "get the permission"


def home_folder() -> Path | None:
    """The user's home folder; None where HOME is not set and the user id has no name, as in many containers."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def expanded(path: str | Path) -> Path:
    """The path with the user's home folder for a leading ~; as it is where there is no such folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def cache_folder(name: str) -> Path:
    """Return $XDG_CACHE_HOME/dpd/NAME or ~/.cache/dpd/NAME, without creating it.

    Raises:
        DiskError: as `user_folder`.
    """
    return user_folder(CACHE_VARIABLE, ".cache", name)


def spare_cache(name: str) -> Path | None:
    """`cache_folder` for what only saves time: None where there is no home folder, and the work is done each time."""
    try:
        return cache_folder(name)
    except DiskError:
        return None


def user_folder(variable: str, usual: str, name: str) -> Path:
    """Return dpd/NAME in the folder that the environment variable names, or in `usual` of the home folder.

    Raises:
        DiskError: the variable is not set, and there is no home folder.
    """
    if root := os.environ.get(variable):
        return Path(root) / "dpd" / name
    if (home := home_folder()) is None:
        user = f"user id {os.getuid()}" if hasattr(os, "getuid") else "this user"
        raise DiskError(
            f"there is no home folder for dpd/{name}: HOME is not set, and {user} has no name here; set {variable} (or "
            "HOME) to a folder that can be written"
        )
    return home / usual / "dpd" / name


def is_own(path: Path) -> bool:
    """Whether a file is there and only this user and root can have written it and its folder: what a cache is trusted
    for. If somebody else can, one line of the log says so.
    """
    try:
        folder, file = path.parent.stat(), path.stat()
    except OSError:
        return False
    if not stat.S_ISREG(file.st_mode):
        return False
    closed = not folder.st_mode & (stat.S_IXGRP | stat.S_IXOTH)  # then nobody else reaches the file
    good = not is_foreign(folder) and not is_foreign(file) and not others_may_write(folder)
    good = good and (closed or not others_may_write(file))
    if not good:
        _log.warning(
            "%s is not used: other users could have written it; delete it, chmod go-w %s, or set XDG_CACHE_HOME",
            *(path, path.parent),
        )
    return good


def read_cached(path: Path) -> bytes | None:
    """The content of a cache's file; None if there is none that can be read, or it is not `is_own`."""
    try:
        return path.read_bytes() if is_own(path) else None
    except OSError:
        return None


def others_may_write(status: os.stat_result) -> bool:
    """Whether the group or others may change a file, or rename what is in a folder. In root's folders with the sticky
    bit, such as /tmp, they may not. Never where files have no owner (Windows).
    """
    if not hasattr(os, "getuid"):
        return False
    sticky = status.st_uid == 0 and status.st_mode & stat.S_ISVTX
    return bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)) and not sticky


def is_foreign(status: os.stat_result) -> bool:
    """Whether a file or folder belongs to another user than this one and root. Never where files have no owner."""
    return hasattr(os, "getuid") and status.st_uid not in (0, os.getuid())


def is_safe_name(name: str) -> bool:
    """Whether one part of a path is a visible name that no system or command line takes for something else.

    Refused: `.` and `..`, separators of any system, invisible letters, a leading `-` (an option), `=`, `+` or `@` (with
    which a cell of labels.csv becomes a formula), an ending dot or space, devices of Windows, and the ending of
    unfinished files.
    """
    good = bool(name) and is_visible(name) and not any(c in name for c in "/\\:") and name not in (".", "..")
    good = good and not name.startswith(("-", "=", "+", "@")) and name[-1:] not in (".", " ")
    return good and not _DEVICE.fullmatch(name) and not name.casefold().endswith(PARTIAL)


def equal_names(names: Iterable[str]) -> tuple[str, str] | None:
    """The first two names that are one file on a system that ignores case or composes letters; None without any."""
    seen: dict[str, str] = {}
    for name in names:
        plain = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
        if plain in seen:
            return seen[plain], name
        seen[plain] = name
    return None


def read_object(path: Path, name: str, way_out: str) -> dict[str, Any]:
    """Read a JSON object of our own.

    Args:
        name, way_out: what messages call the file, and what they advise.

    Raises:
        InputError: the file cannot be read, or is something else.
    """
    try:
        with open_regular(path) as file:
            raw = file.read(MAX_JSON_BYTES + 1)
        if len(raw) > MAX_JSON_BYTES:
            raise ValueError(f"more than {MAX_JSON_BYTES} bytes")
        content = loads(raw)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{name} cannot be read ({error}); {way_out}") from error
    if not isinstance(content, dict):
        raise InputError(f"{name} is not a JSON object; {way_out}")
    return content


# -- A file lock that the kernel releases when its holder ends in any way.


KEEPS_APART = fcntl is not None
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what a file system without locks answers


class FileLock:
    """An exclusive lock (flock; on NFS a server lock). `release` deletes the file; a killed process leaves it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        return self._descriptor is not None

    def acquire(self, *, wait: bool = False, about: str = "") -> bool:
        """Try to acquire the lock, or wait for it. Returns whether it is held.

        Args:
            about: text in the file for other processes.

        Raises:
            OSError: no such folder, a full or read-only disk, or a file system without locks.
            OutputLinkError: the path is a link or a special file. It is not changed.
        """
        while True:
            descriptor = self._open()
            try:
                self._check_file(descriptor)
                if fcntl is not None:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                if self._is_still(descriptor):
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, about.encode())
                    self._descriptor = descriptor
                    return True
            except BlockingIOError:
                return False
            except OSError as error:
                if (
                    error.errno != errno.ESTALE
                ):  # NFS: its holder on another machine removed it; try again with a new file
                    raise
            finally:
                if self._descriptor != descriptor:
                    os.close(descriptor)

    def _open(self) -> int:
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT | NO_FOLLOW, 0o666)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise OutputLinkError(self.path) from None
            raise

    def _check_file(self, descriptor: int) -> None:
        """Refuse what locks of dpd never are: its text would be written elsewhere."""
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OutputLinkError(self.path, "a pipe, socket or device")
        if status.st_nlink > 1:
            raise OutputLinkError(self.path, "a hard link to another file")

    def _is_still(self, descriptor: int) -> bool:
        """Whether the path is still this file. Its last holder may have removed it before we got the lock."""
        try:
            return os.path.samestat(os.fstat(descriptor), os.lstat(self.path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Release the lock and delete the file.

        Raises:
            OSError: the folder is gone or read-only.
        """
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        try:
            if fcntl is not None:  # before another process can lock it
                self.path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)
        if fcntl is None:  # Windows deletes no open file
            self.path.unlink(missing_ok=True)


@contextmanager
def worked_in(folder: Path, command: str) -> Iterator[None]:
    """Keep other processes out of a folder in which `command` works. A killed process keeps nobody out, and where the
    file system has no locks nobody is kept out either.

    Raises:
        InputError: another process works there.
        OSError: no such folder, or it cannot be written.
    """
    lock = FileLock(folder / "session.lock")
    try:
        if not lock.acquire():
            raise InputError(f"{folder}: another {command} works there; wait until it ends, or stop it and go on then")
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    try:
        yield
    finally:
        with suppress(OSError):  # the folder may be gone; the lock ends with the process
            lock.release()


# -- Strict reading of JSON from outside: keys once, finite numbers, bounded depth and size.


MAX_DEPTH = 32
MAX_JSON_BYTES = 8 * 2**20
"""Of every JSON file of a bundle: ten thousand classes fit, and Python needs up to 25 times as much to hold it."""
MAX_KEYS = 10_000  # of one object: as many as a bundle has files, the longest object that dpd writes
LARGEST = 1e30
"""Of every number: float32 holds it, and so does what is computed from a few of them."""


def each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these keys and values, for `json.loads`.

    Raises:
        ValueError: a key occurs twice, or there are more than MAX_KEYS.
    """
    if len(pairs) > MAX_KEYS:
        raise ValueError(f"an object of {len(pairs)} keys, more than {MAX_KEYS}")
    content = dict(pairs)
    if len(content) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"key {key[:60]!r} occurs twice")
            seen.add(key)
    return content


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _number(text: str) -> float:
    if not abs(value := float(text)) <= LARGEST:
        raise ValueError(f"{text[:20]} is too large a number")
    return value


def _whole(text: str) -> int:
    _number(text)
    return int(text)


def dumps(content: object) -> bytes:
    """A record as JSON: indented, with a line end, and without NaN and Infinity, which JSON has not."""
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def loads(raw: str | bytes) -> Any:
    """Parse foreign JSON, as `json.loads` does.

    Raises:
        ValueError: not JSON, which has no NaN or Infinity; a number beyond LARGEST, which `json` would make infinite or
            a whole number of any length; a duplicate key, or more than MAX_KEYS keys in an object; nested deeper than
            MAX_DEPTH.
    """
    try:
        content = json.loads(
            raw, object_pairs_hook=each_key_once, parse_constant=_no_constant, parse_float=_number, parse_int=_whole
        )
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels") from None
    if depth_of(content) > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    return content


def depth_of(content: object) -> int:
    """Nesting depth of lists and objects, found without recursion."""
    depth, level = 0, [content]
    while level := [part for part in level if isinstance(part, dict | list)]:
        depth += 1
        level = [inner for part in level for inner in (part.values() if isinstance(part, dict) else part)]
    return depth


def check_json_size(size: int, name: str) -> None:
    """Raises:
    BundleError: a JSON file of a bundle has more than MAX_JSON_BYTES.
    """
    if size > MAX_JSON_BYTES:
        raise BundleError(f"{name} has {size} bytes, more than {MAX_JSON_BYTES}; export the bundle again")


def parse_json(raw: bytes, name: str) -> Any:
    """Parse JSON of a bundle.

    Raises:
        BundleError: larger than MAX_JSON_BYTES, or what `loads` refuses.
    """
    check_json_size(len(raw), name)
    try:
        return loads(raw)
    except ValueError as error:
        raise BundleError(
            f"{name} is not valid JSON ({error}): it was changed or damaged; fetch or export it again"
        ) from error
