"""Judges: what a distilled set is worth beside real subsets of the same size, and what a bundle gives away."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dpd_runtime.moved import keep_names  # dpd_runtime first, as it switches telemetry off

if TYPE_CHECKING:
    from dpd_eval.evaluation import evaluate
    from dpd_eval.metrics import SetMetrics
    from dpd_eval.options import EvaluateConfig
    from dpd_eval.recipe import Recipe, load_recipe
    from dpd_eval.results import ArmResult, Difference, Evaluation, Goal, StudentInfo
    from dpd_eval.selection import random_subset, select
    from dpd_eval.statistics import Interval, RatioVerdict, ratio_verdict

__all__ = [
    "ArmResult",
    "Difference",
    "EvaluateConfig",
    "Evaluation",
    "Goal",
    "Interval",
    "RatioVerdict",
    "Recipe",
    "SetMetrics",
    "StudentInfo",
    "evaluate",
    "load_recipe",
    "random_subset",
    "ratio_verdict",
    "select",
]


_MODULES = (
    "options",
    "results",
    "evaluation",
    "metrics",
    "selection",
    "statistics",
    "recipe",
)


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `dpd_eval.options` does not load PyTorch."""
    if name in __all__:
        for module in _MODULES:
            imported = import_module(f"{__name__}.{module}")
            if hasattr(imported, name):
                return getattr(imported, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


keep_names(
    {
        "dpd_eval.selection.method": "dpd_eval.selection",
        "dpd_eval.extractors.extractor": "dpd_eval.extractors",
        "dpd_eval.audit.audit": "dpd_eval.audit",
        "dpd_eval.audit.record": "dpd_eval.verdict",
    }
)
