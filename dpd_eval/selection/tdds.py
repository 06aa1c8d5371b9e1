"""TDDS: images whose part in a training varies most (`dpd_train.classifiers.tdds`)."""

from dpd_eval.selection.method import Method, highest_first

TDDS = Method("tdds", sees="scores", uses_seed=False, pick=highest_first)
