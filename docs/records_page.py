"""Write the page on records from their types: `python docs/records_page.py` prints it.

The types are what dpd writes and reads, and their docstrings say what the fields mean, so that the page is never older
than the code. `test_docs.py` checks that each field has a meaning.
"""

import inspect
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints, is_typeddict

from dpd_eval.metrics import SetDetail, SetMetrics
from dpd_eval.recipe import Recipe
from dpd_eval.results import ArmResult, Difference, Evaluation, Goal, StudentInfo
from dpd_eval.statistics import Interval
from dpd_eval.verdict import Audit, Audited, ComparedImages, Control, Outcome, Power
from dpd_runtime.bands import Band
from dpd_runtime.bench import BenchResult, KindSpeed, NetworkTime
from dpd_runtime.classifier import ClassifierRecord
from dpd_runtime.manifest import FileEntry
from dpd_runtime.set_record import SetRecord
from dpd_train.records import RunRecord

HEAD = """# Records

Written from the types by which dpd writes and reads these files. What later versions may change stands under
[compatibility](compatibility.md). `dpd COMMAND --config FILE` repeats what a run, a set, an evaluation or an audit
describes ([how](../guides/train.md#presets)).
"""
RECORDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "A run: run.json": ("`dpd train` writes it last.", (RunRecord,)),
    "A set: dataset.json": ("`dpd generate` and `dpd select` write it last.", (SetRecord, Band)),
    "An evaluation": (
        "`dpd evaluate --out` and `--json` give it. Accuracies are shares in 0 … 1.",
        (Evaluation, ArmResult, Difference, Goal, Interval, Recipe, StudentInfo, SetMetrics, SetDetail),
    ),
    "An audit: audit.json": (
        "`dpd audit` writes it into a run or a copy of a bundle, and `--json` prints it.",
        (Audit, Outcome, Control, Power, Audited, ComparedImages),
    ),
    "A classifier: model.json": ("`dpd fit` writes it.", (ClassifierRecord, FileEntry)),
    "A benchmark": ("`dpd bench --json` prints it.", (BenchResult, KindSpeed, NetworkTime)),
}


def records_page() -> str:
    """Return the whole page as Markdown."""
    parts = [HEAD]
    for title, (said, types) in RECORDS.items():
        parts += [f"## {title}\n", f"{said}\n"]
        for place, kind in enumerate(types):
            about = meaning_of_all(kind)
            parts += [f"### {kind.__name__}\n"] if place else []
            parts += [f"{about}\n"] if about else []
            parts += ["| field | type | meaning |\n|---|---|---|", *rows(kind), ""]
    return "\n".join(parts)


def rows(kind: type) -> Iterator[str]:
    """The fields of a type as rows of a table."""
    said, known = meanings(kind), None if is_typeddict(kind) else {field.name for field in fields(kind)}  # type: ignore[arg-type]
    for name, hint in get_type_hints(kind, include_extras=True).items():
        meaning = said.get(name, "")
        if (known is None or name in known) and not meaning.endswith("; not stored."):
            yield f"| `{name}` | {written(hint)} | {meaning} |"


def meanings(kind: type) -> dict[str, str]:
    """The meaning of each field that the docstring of the type, or of those below it, explains as `field: text`."""
    known = "|".join(get_type_hints(kind))
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        said = re.split("(?m)^(?:Args|Raises):$", inspect.cleandoc(one.__dict__.get("__doc__") or ""))
        text = " ".join(said[1].split()) if len(said) > 1 else ""
        pieces = re.split(rf"(?:^|(?<= ))((?:(?:{known})(?:, )?)+): ", text)
        for names, meaning in zip(pieces[1::2], pieces[2::2], strict=True):
            for name in re.findall(rf"\b(?:{known})\b", names):
                found[name] = " ".join(meaning.split()).replace("None", "null").replace("|", "\\|")
    return found


def meaning_of_all(kind: type) -> str:
    """What the docstring says of the whole type."""
    return " ".join(re.split("(?m)^(?:Args|Raises):$", inspect.cleandoc(kind.__doc__ or ""))[0].split())


def written(hint: Any) -> str:
    """A type as JSON has it, in words."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        meta = args[1]
        low, high = getattr(meta, "ge", None), getattr(meta, "le", None)
        limits = "" if low is None else f" ≥ {low:g}" if high is None else f" {low:g} … {high:g}"
        return written(args[0]) + limits
    if hint is Any:
        return "any"
    if hint in SIMPLE:
        return SIMPLE[hint]
    if origin in (tuple, list) or (origin is not None and issubclass_of(origin, "Sequence")):
        inner = [part for part in args if part is not Ellipsis]
        return f"list of {written(inner[0])}" if len(set(inner)) == 1 else f"[{', '.join(map(written, inner))}]"
    if origin is not None and (origin is dict or issubclass_of(origin, "Mapping")):
        return "object" if args[1] is Any else f"name → {written(args[1])}"
    if args and all(isinstance(part, str) for part in args):
        return " or ".join(f"`{part}`" for part in args)
    if args:
        parts = [written(part) for part in args if part is not type(None)]
        return " or ".join(parts) + (" or null" if type(None) in args else "")
    return f"[{hint.__name__}](#{hint.__name__.lower()})" if is_dataclass(hint) else "string"


SIMPLE = {str: "string", int: "integer", float: "number", bool: "true or false"}


def issubclass_of(kind: Any, name: str) -> bool:
    return getattr(kind, "__name__", "") == name


if __name__ == "__main__":
    print(records_page())
