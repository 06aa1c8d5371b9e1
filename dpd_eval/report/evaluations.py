"""Evaluations for the page: named after their file, without the paths of a machine."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dpd_eval.comparison.results import Evaluation
from dpd_eval.reading import check_cells, convert
from dpd_eval.report.names import PARTS, hide_all_paths, short_name, short_names


@dataclass(frozen=True, kw_only=True)
class NamedEvaluation(Evaluation):
    """context: what a committed result records beside the evaluation."""

    name: str
    context: tuple[tuple[str, str], ...] = ()


def looks_like_evaluation(content: object) -> bool:
    return isinstance(content, dict) and isinstance(content.get("arms"), list) and "classes" in content


def read_evaluation(
    content: Mapping[str, Any], name: str, where: str, context: tuple[tuple[str, str], ...] = ()
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
    shown |= {"sets": sets, "train": known.get(evaluation.train, ""), "name": name, "context": context}
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
