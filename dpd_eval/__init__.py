"""Judges: what a distilled set is worth beside real subsets of the same size, and what a bundle gives away."""

from typing import TYPE_CHECKING

from dpd_runtime.moved import keep_names  # dpd_runtime first, as it switches telemetry off
from dpd_runtime.public import public_names

if TYPE_CHECKING:
    from dpd_eval.evaluation import evaluate
    from dpd_eval.metrics import SetMetrics
    from dpd_eval.options import EvaluateConfig
    from dpd_eval.ranking import Score, dd_ranking
    from dpd_eval.recipe import Recipe, load_recipe
    from dpd_eval.results import ArmResult, Difference, Evaluation, Goal, StudentInfo
    from dpd_eval.selection import random_subset, select
    from dpd_eval.statistics import Interval, RatioVerdict, ratio_verdict

_PLACES = {
    "ArmResult": "dpd_eval.results",
    "Difference": "dpd_eval.results",
    "EvaluateConfig": "dpd_eval.options",
    "Evaluation": "dpd_eval.results",
    "Goal": "dpd_eval.results",
    "Interval": "dpd_eval.statistics",
    "RatioVerdict": "dpd_eval.statistics",
    "Score": "dpd_eval.ranking",
    "Recipe": "dpd_eval.recipe",
    "SetMetrics": "dpd_eval.metrics",
    "dd_ranking": "dpd_eval.ranking",
    "StudentInfo": "dpd_eval.results",
    "evaluate": "dpd_eval.evaluation",
    "load_recipe": "dpd_eval.recipe",
    "random_subset": "dpd_eval.selection",
    "ratio_verdict": "dpd_eval.statistics",
    "select": "dpd_eval.selection",
}
__all__ = [
    "ArmResult",
    "Difference",
    "EvaluateConfig",
    "Evaluation",
    "Goal",
    "Interval",
    "RatioVerdict",
    "Recipe",
    "Score",
    "SetMetrics",
    "StudentInfo",
    "dd_ranking",
    "evaluate",
    "load_recipe",
    "random_subset",
    "ratio_verdict",
    "select",
]
__getattr__, __dir__ = public_names(__name__, _PLACES, "train,eval")

keep_names(
    {
        "dpd_eval.selection.method": "dpd_eval.selection",
        "dpd_eval.extractors.extractor": "dpd_eval.extractors",
        "dpd_eval.audit.audit": "dpd_eval.audit",
        "dpd_eval.audit.record": "dpd_eval.verdict",
    }
)
