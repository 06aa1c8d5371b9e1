"""Judges: what a distilled set is worth, beside real subsets of the same size."""

from dpd_eval.evaluate import evaluate
from dpd_eval.recipe import Recipe, load_recipe
from dpd_eval.results import ArmResult, Difference, Evaluation, StudentInfo
from dpd_eval.statistics import Interval, RatioVerdict, ratio_verdict
from dpd_eval.subsets import random_subset

__all__ = [
    "ArmResult",
    "Difference",
    "Evaluation",
    "Interval",
    "RatioVerdict",
    "Recipe",
    "StudentInfo",
    "evaluate",
    "load_recipe",
    "random_subset",
    "ratio_verdict",
]
