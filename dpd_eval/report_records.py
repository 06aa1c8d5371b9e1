"""Records that a report shows, and the words for them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dpd_eval.records import check_cells
from dpd_eval.results import Evaluation, is_joint, is_own, is_taught, jpeg_megabytes, own_part, taught_part
from dpd_eval.verdict import Audit
from dpd_runtime.bench import BenchResult
from dpd_runtime.text import counted, plural
from dpd_train.records import convert

# -- Shorten paths to folder names, so that the page does not reveal where they are on this machine.


PARTS = ("train", "val", "test")
# Foreign text is matched by it. So no part of it gives back what it took (++), and what begins like a path is taken up
# to its end, whether there is a name in it or not: each letter is read once, however often paths seem to begin.
_PATH = re.compile(
    r"(?P<url>https?://\S++)"
    r"|(?:file:/{2}|(?<![\w.\-/\\<])(?:~\w*+|[A-Za-z]:)?[/\\]|(?<![\w./])\.{1,2}[/\\])"
    r"(?P<names>(?:(?!https?://)[^\s'\"`,;<>|()])*+)"
)


def hide_paths(text: str) -> str:
    """Replace every absolute, home or parent-relative path in a text by its last name; URLs stay.

    Unprintable characters (controls, bidirectional marks) become U+FFFD, because they could disguise a command line.
    """
    shown = _PATH.sub(_last_name, text)
    return shown if shown.isprintable() else "".join(c if c.isprintable() or c == "\n" else "�" for c in shown)


def _last_name(match: re.Match[str]) -> str:
    """The last name of a path, with what follows it behind a colon, such as the number of a line."""
    if match["url"]:
        return match[0]
    path = match["names"].rstrip("/\\:")
    name = path[max(path.rfind("/"), path.rfind("\\")) + 1 :]
    colons = match["names"][len(path) :].replace("/", "").replace("\\", "")
    return name + colons if name not in ("", ".", "..") else match[0]


def hide_all_paths(content: Any) -> Any:
    """Apply `hide_paths` to every key and every text in JSON content."""
    if isinstance(content, str):
        return hide_paths(content)
    if isinstance(content, Mapping):
        return {hide_paths(str(key)): hide_all_paths(value) for key, value in content.items()}
    return [hide_all_paths(value) for value in content] if isinstance(content, list | tuple) else content


def short_names(paths: Sequence[str]) -> tuple[str, ...]:
    """Shorten each path to the fewest last names that keep them distinct; `train`, `val`, `test` keep their folder.

    `("/a/euro/test", "/b/set0")` → `("euro/test", "set0")`. Paths that remain equal are numbered.
    """
    split = [_names(path) for path in paths]
    lengths = [2 if names[-1] in PARTS else 1 for names in split]
    for extra in range(3):
        short = ["/".join(names[-(length + extra) :]) for names, length in zip(split, lengths, strict=True)]
        if len(set(short)) == len(set(map(tuple, split))):
            return tuple(map(hide_paths, short))
    seen: dict[tuple[str, ...], int] = {}
    numbers = [seen.setdefault(tuple(names), len(seen) + 1) for names in split]
    return tuple(hide_paths(f"{names[-1]} ({number})") for names, number in zip(split, numbers, strict=True))


def short_name(path: str) -> str:
    return short_names((path,))[0]


def _names(path: str) -> list[str]:
    """Split a POSIX or Windows path into names, without root, `.` and `..`."""
    names = [name for name in re.split(r"[\\/]+", path) if name not in ("", ".", "..", "~")]
    if names and re.fullmatch("[A-Za-z]:", names[0]):  # a drive
        names = names[1:]
    return names or ["."]


# -- Format numbers and arms for the page: percent, points, seconds, bytes, words.


MINUS, SPACE = "−", "\N{NO-BREAK SPACE}"
ARMS = {
    "set": "the set",
    "random": "random real images",
    "herding": "real images chosen by herding",
    "k-center": "real images chosen by k-center",
    "k-means": "real images nearest to k-means centroids",
    "tdds": "real images with the highest TDDS scores",
    "foreground": "real images cut to their foreground",
    "full": "the full real training data",
    "labels": "real images that a classifier named",
}


def arm_words(arm: str) -> str:
    """Name an arm in a sentence."""
    if is_taught(arm):
        return f"{arm_words(taught_part(arm))} under the teacher"
    if is_joint(arm):
        return f"the set with {arm_words(own_part(arm))}"
    if (size := jpeg_megabytes(arm)) is not None:
        return f"real images as JPEGs in {size:g}{SPACE}MB"
    return f"{arm} images per class" if is_own(arm) else ARMS.get(arm, arm)


def percent(share: float, digits: int = 1) -> str:
    """Format 0.6182 as `61.8 %`."""
    return f"{100 * share:.{digits}f}{SPACE}%".replace("-", MINUS)


def signed(value: float, digits: int = 2) -> str:
    """Format with a typographic sign, or without one for a value that rounds to zero."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", MINUS)


def points(difference: float, digits: int = 2) -> str:
    """Format a difference of shares in percentage points: −0.0186 → `−1.86`."""
    return signed(100 * difference, digits)


def duration(seconds: float) -> str:
    """Format as `45 s`, `12 min 5 s` or `3 h 20 min`."""
    whole = round(seconds)
    if seconds < 10:
        return f"{seconds:.1f}{SPACE}s"
    if whole < 60:
        return f"{whole}{SPACE}s"
    if whole < 3600:
        return f"{whole // 60}{SPACE}min {whole % 60}{SPACE}s"
    return f"{whole // 3600}{SPACE}h {whole % 3600 // 60}{SPACE}min"


def megabytes(size: float) -> str:
    return f"{size / 1e6:.2f}{SPACE}MB" if size >= 1e4 else f"{size:.0f}{SPACE}bytes"


def grouped(number: float) -> str:
    """Format 12000 as `12 000`."""
    return f"{number:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def count(number: int, one: str, many: str | None = None) -> str:
    """Format as `1 pair`, `8 pairs`, `12 000 images`."""
    return grouped(number) + SPACE + (one if number == 1 else many or plural(one))


def listed(words: list[str]) -> str:
    """Join as `a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def plain(value: object) -> str:
    """Format any JSON value for a table: numbers with four digits, lists with commas."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        text = f"{value:.0f}" if value.is_integer() and abs(value) < 1e9 else f"{value:.4g}"
        return text.replace("-", MINUS)
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    return str(value)


# -- Evaluations for the page: named after their file, without the paths of a machine.


@dataclass(frozen=True, kw_only=True)
class NamedEvaluation(Evaluation):
    """context: what a committed result records beside the evaluation. alone: whether a file holds nothing else."""

    name: str
    alone: bool = False
    context: tuple[tuple[str, str], ...] = ()


def looks_like_evaluation(content: object) -> bool:
    return isinstance(content, dict) and isinstance(content.get("arms"), list) and "classes" in content


def read_evaluation(
    content: Mapping[str, Any], name: str, where: str, context: tuple[tuple[str, str], ...] = (), *, alone: bool = False
) -> NamedEvaluation:
    """Read what `dpd evaluate --out` wrote.

    Raises:
        InputError: a value that is missing or of the wrong type, naming it.
    """
    evaluation = convert(content, Evaluation, where)
    check_cells(_cells_of(evaluation), where)
    sets = short_names(evaluation.sets) if evaluation.sets else ()
    known = dict(zip((*evaluation.sets, evaluation.train, evaluation.test), (*sets, "", ""), strict=True))
    known = {path: short or short_name(path) for path, short in known.items() if path}
    shown = hide_all_paths({**content, "notes": [_replace(note, known) for note in evaluation.notes]})
    shown |= {"sets": sets, "train": known.get(evaluation.train, ""), "name": name, "context": context, "alone": alone}
    shown["test"] = evaluation.test if evaluation.test in PARTS else known.get(evaluation.test, "")
    return convert(shown, NamedEvaluation, where)


def _cells_of(evaluation: Evaluation) -> int:
    """Cells of the tables by class, and of the two confusion matrices of each setting, at most."""
    arms, settings = evaluation.arms, len(evaluation.settings())
    classes = len({name for arm in arms for name in arm.class_accuracy})
    matrix = max((len(arm.confusion) for arm in arms), default=0)
    return settings * (len(evaluation.arm_names()) * max(1, classes) + 2 * matrix**2)


def _replace(text: str, known: Mapping[str, str]) -> str:
    """Shorten paths that occur elsewhere in the file, the longest first because one may be a prefix of another."""
    for path in sorted((path for path in known if "/" in path or "\\" in path), key=len, reverse=True):
        text = text.replace(path, known[path])
    return text


# -- Audits and timings for the page.


Row = dict[str, float | str | bool | None]


@dataclass(frozen=True, kw_only=True)
class NamedAudit(Audit):
    """claimed: whether it lies in a bundle that no trusted key signed, so that anybody may have written it."""

    name: str
    claimed: bool = False


@dataclass(frozen=True)
class Timings:
    """Timings of any kind: in each row a number or text for each column that it has."""

    timings: tuple[Row, ...]
    hardware: str = ""
    name: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(key for row in self.timings for key in row))


def read_audit(content: Mapping[str, Any], name: str, where: str, *, claimed: bool = False) -> NamedAudit:
    """Read audit.json.

    Raises:
        InputError: an unknown verdict, or a value that is missing or of the wrong type.
    """
    return convert(hide_all_paths({**content, "name": name, "claimed": claimed, "private": None}), NamedAudit, where)


def read_bench(content: Mapping[str, Any], name: str, where: str) -> Timings:
    """Read what `dpd bench --json` printed, as timings.

    Raises:
        InputError: a value is missing or of the wrong type, or there are too many networks.
    """
    bench = convert(hide_all_paths(content), BenchResult, where)
    check_cells(len(bench.networks), where)
    kinds = {"decoded": bench.decoded, "re-noised": bench.renoised, "sampled": bench.sampled}
    made: list[Row] = [
        {
            "what": f"{kind} images",
            "images": speed.images,
            "seconds": speed.seconds,
            "images_per_second": speed.images_per_second,
        }
        for kind, speed in kinds.items()
        if speed is not None
    ]
    called: list[Row] = [
        {"what": f"calls of {part}", "calls": of.calls, "median_ms": of.median_ms, "share_of_the_time": of.share}
        for part, of in bench.networks.items()
    ]
    loading: Row = {"what": "loading", "seconds": bench.load_seconds}
    rows = (*made, loading, *called)
    return Timings(rows, f"{bench.provider}, {counted(bench.threads, 'thread')}", name)


def read_timings(content: Mapping[str, Any], name: str, where: str) -> Timings:
    """Read `{"timings": [{column: value}, …], "hardware": …}`.

    Raises:
        InputError: `timings` is not a list of objects of numbers and texts, or has too many of them.
    """
    timings = convert(hide_all_paths({**content, "name": name}), Timings, where)
    check_cells(len(timings.timings) * len(timings.columns), where)
    return timings
