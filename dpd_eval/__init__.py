"""Judges: what a distilled set is worth beside real subsets of the same size, and what a bundle gives away."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import dpd_runtime  # noqa: F401 -- first, as it switches telemetry off

if TYPE_CHECKING:
    from dpd_eval.comparison.config import EvaluateConfig
    from dpd_eval.comparison.evaluate import evaluate
    from dpd_eval.comparison.results import ArmResult, Difference, Evaluation, Goal, StudentInfo
    from dpd_eval.metrics.set_metrics import SetMetrics
    from dpd_eval.selection.methods import random_subset, select
    from dpd_eval.statistics import Interval, RatioVerdict, ratio_verdict
    from dpd_eval.students.recipe import Recipe, load_recipe

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
    "comparison.config",
    "comparison.results",
    "comparison.evaluate",
    "metrics.set_metrics",
    "selection.methods",
    "statistics",
    "students.recipe",
)


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `dpd_eval.comparison.config` does not load PyTorch."""
    if name in __all__:
        for module in _MODULES:
            imported = import_module(f"{__name__}.{module}")
            if hasattr(imported, name):
                return getattr(imported, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
