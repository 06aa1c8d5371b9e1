"""The controls of an audit come out as they must on latents whose answer is known."""

import numpy as np

from dpd_eval.audit import AVERAGED, AVERAGED_CODES, averaged_codes_control
from dpd_eval.subject import AuditData
from dpd_eval.verdict import Outcome
from dpd_train.scene_set import SceneSet

CLASSES, EACH = ("Field", "Wood"), 40


def images(count: int) -> SceneSet:
    labels = np.repeat(np.arange(len(CLASSES)), count)
    return SceneSet(CLASSES, np.zeros((len(labels), 8, 8, 3), np.uint8), labels, tuple(map(str, labels)), ())


def test_codes_that_are_means_of_ten_give_their_images_away() -> None:
    """A mean of ten random latents is nearer to each of them than to any other."""
    data = AuditData(images(EACH), images(EACH), np.arange(0, 80, 2), np.arange(1, 80, 2), ())
    rng = np.random.default_rng(0)
    latents = tuple(rng.standard_normal((2 * EACH, 4, 8, 8)).astype(np.float32) for _ in range(2))
    found = averaged_codes_control(data, (latents[0], latents[1]))
    assert found
    assert all(AVERAGED_CODES in one.name and one.name.endswith("AUC") for one in found), [one.name for one in found]
    for one in found:
        assert (one.verdict, one.expected, one.wrong) == ("FAIL", "FAIL", False), one
        assert one.value is not None
        assert one.value > 0.95, "the correlation with the own mean is 1 / √10 here, of noise with a spread of 1 / 16"
    assert AVERAGED == 10


def test_a_record_has_its_numbers_rounded_and_no_empty_remark() -> None:
    plain = Outcome("a test", 0.123456789, (0.1, 0.2), None, "PASS")
    expected = {"name": "a test", "value": 0.12346, "interval": [0.1, 0.2], "threshold": None, "verdict": "PASS"}
    assert plain.to_dict() == expected
    assert Outcome("another", None, None, None, "WARN", note="not run").to_dict() == {
        "name": "another",
        "value": None,
        "interval": None,
        "threshold": None,
        "verdict": "WARN",
        "note": "not run",
    }
