import subprocess
import sys
from dataclasses import fields

import pytest

from dpd_eval.options import BASELINES, EvaluateConfig
from dpd_eval.selection import METHODS
from dpd_runtime.errors import InputError


def test_named_labels_are_not_named_and_then_forgotten():
    with pytest.raises(InputError, match="--labels has no effect with --soft-labels"):
        EvaluateConfig(labels=True, soft_labels=True)


def test_baselines_are_the_selection_methods():
    assert tuple(METHODS) == BASELINES


def test_every_field_has_a_sentence_of_help_and_a_panel():
    for field in fields(EvaluateConfig):
        assert field.metadata["help"].endswith("."), field.name
        assert field.metadata["panel"] in ("Data", "Model", "Running"), field.name


def test_the_config_is_imported_without_torch():
    code = "import sys, dpd_eval.options; print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
