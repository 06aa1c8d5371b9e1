"""Judges: what a distilled set is worth, beside real subsets of the same size."""

from dpd_eval.comparison.evaluate import evaluate
from dpd_eval.comparison.results import ArmResult, Difference, Evaluation, Goal, StudentInfo
from dpd_eval.metrics import SetMetrics
from dpd_eval.selection import random_subset, select
from dpd_eval.statistics import Interval, RatioVerdict, ratio_verdict
from dpd_eval.students.recipe import Recipe, load_recipe

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
