"""Foreground: images or their patches of which a teacher is surest (`dpd_eval.selection.foreground_patches`)."""

from dpd_eval.selection.method import Method, highest_first

FOREGROUND = Method("foreground", sees="patches", uses_seed=False, pick=highest_first)
