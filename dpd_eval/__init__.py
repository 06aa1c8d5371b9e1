"""Judges: what a distilled set is worth, beside real subsets of the same size."""

from dpd_eval.evaluate import evaluate
from dpd_eval.metrics import SetMetrics
from dpd_eval.recipe import Recipe, load_recipe
from dpd_eval.results import ArmResult, Difference, Evaluation, Goal, StudentInfo
from dpd_eval.selection import random_subset, select
from dpd_eval.statistics import Interval, RatioVerdict, ratio_verdict

__all__ = [
    "ArmResult",
    "Difference",
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
