"""Names of modules that guides of 0.2 gave still answer, with a warning that says the new one."""

from importlib import import_module
from importlib.util import find_spec

import pytest

NAMES = {
    "dpd_runtime.bundle.keys": ("dpd_runtime.trust", "read_public_key"),
    "dpd_runtime.engines.engine": ("dpd_runtime.engines", "Provider"),
    "dpd_runtime.generation.replay": ("dpd_runtime.golden", "check_replay"),
    "dpd_runtime.sealing.require": ("dpd_runtime.sealing", "require_signature"),
    "dpd_train.images": ("dpd_train.scenes", "read_scenes"),
    "dpd_train.bases.base": ("dpd_train.bases", "load_base"),
    "dpd_train.compute.rs_dgc": ("dpd_neighbours.rs_dgc", "RsDgc"),
    "dpd_train.run.planning.plan": ("dpd_distill.plan", "make_plan"),
    "dpd_train.run.planning.speed": ("dpd_distill.speed", "measure_speed"),
    "dpd_eval.selection.method": ("dpd_eval.selection", "highest_first"),
    "dpd_eval.extractors.extractor": ("dpd_eval.extractors", "Extractor"),
    "dpd_eval.audit.audit": ("dpd_eval.audit", "audit"),
    "dpd_eval.audit.record": ("dpd_eval.verdict", "write_record"),
}


@pytest.mark.parametrize("old", NAMES)
def test_an_old_name_is_the_new_one(old: str) -> None:
    new, name = NAMES[old]
    if find_spec("torch") is None and not old.startswith("dpd_runtime"):
        pytest.skip("a site has no PyTorch")
    module = import_module(old)
    with pytest.warns(FutureWarning, match=f"^{old} is {new} now: import {name} from there$") as seen:
        assert getattr(module, name) is getattr(import_module(new), name)
    assert seen[0].filename == __file__, "the line that asked"
    assert not hasattr(module, "__path__")
