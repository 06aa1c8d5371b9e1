"""What an audit found, in words, and the number of hold-out images that would do by the tests' own rules."""

import math
import re

import numpy as np
import pytest

from dpd_eval.attacks import AUC_HARMLESS, Scores, membership_tests
from dpd_eval.nearness import nearer_test, replication_test
from dpd_eval.verdict import LEGEND, FewHeld, Outcome, control, decide, not_run, numbered_notes, summary
from dpd_train.too_near import Nearest

PASSED = Outcome("artefact scan", 0.0, None, 0.0, "PASS")
COPIED = Outcome("near duplicates of T, generated images", 3.0, None, 0.0, "FAIL", "of 60 images")


def nearest(count: int, seed: int) -> Nearest:
    rng = np.random.default_rng(seed)
    return Nearest(rng.standard_normal(count), np.arange(count) % 2)


def scores(members: int, others: int, seed: int = 0) -> dict[str, Scores]:
    rng = np.random.default_rng(seed)
    return {"loss": Scores(rng.standard_normal(members), rng.standard_normal(others))}


def would_do(line: str) -> int:
    found = re.search(r"as the hold-out has (\d+) images?; about (\d+) would do", line)
    assert found is not None, line
    return int(found[2])


def test_nothing_found_and_nothing_open() -> None:
    assert summary([PASSED], [control(COPIED, "FAIL")], 500) == (
        "Found: nothing.",
        "Undecided: nothing that this audit measures.",
    )


def test_with_as_many_images_as_it_names_the_tests_run() -> None:
    """Two halves of a hold-out with two classes, and one with a class too few by one."""
    few = replication_test("replication, structure", nearest(600, 0), nearest(18, 1), nearest(18, 2), 2)
    rates = membership_tests("denoiser", scores(36, 36), held=36)[1]
    assert {few.verdict, rates.verdict} == {"NOT RUN"}
    for held, test in ((36, few), (36, rates)):
        (line,) = [line for line in summary([PASSED, test], [], held) if line.startswith("Undecided")]
        needed = would_do(line)
        assert needed == 100
        half = needed // 2
        ran = replication_test("replication, structure", nearest(600, 0), nearest(half, 1), nearest(half, 2), 2)
        assert ran.verdict != "NOT RUN"
        assert membership_tests("denoiser", scores(needed, needed), held=needed)[1].verdict != "NOT RUN"
    less = replication_test("replication, structure", nearest(600, 0), nearest(48, 1), nearest(48, 2), 2)
    assert less.verdict == membership_tests("denoiser", scores(98, 98), held=98)[1].verdict == "NOT RUN"


def test_an_interval_that_holds_the_limit_names_the_number_at_which_it_would_end_there() -> None:
    area = membership_tests("denoiser", scores(150, 150, seed=6), held=150)[0]
    assert area.verdict == "WARN"
    assert area.value is not None
    assert area.interval is not None
    needed = would_do(summary([PASSED, area], [], 150)[1])
    narrowed = (area.interval[1] - area.value) * math.sqrt(150 / needed)
    assert area.value + narrowed == pytest.approx(AUC_HARMLESS, abs=1e-3)


def test_the_largest_number_is_named_and_how_many_name_none() -> None:
    tests = [
        not_run("replication, structure", "few", FewHeld(5)),
        Outcome("comparable hold-out", 0.6, None, 0.6, "WARN", few=FewHeld(12.8)),
        decide("nearer to T than to H, structure", 0.7, (0.4, 0.8), 0.55, of_held=True),
    ]
    assert summary([PASSED, *tests[:2]], [], 20)[1:] == (
        "Undecided: 2 of 3 tests, as the hold-out has 20 images; about 256 would do.",
    )
    assert summary([PASSED, *tests], [], 20)[1:] == (
        "Undecided: 3 of 4 tests, as the hold-out has 20 images; about 256 would do for 2 of them, and for 1 the "
        "number is open.",
    )
    assert summary([tests[2]], [], 1)[1:] == (
        "Undecided: 1 of 1 test, as the hold-out has 1 image; how many would do is open.",
    )


def test_the_hold_out_is_not_blamed_where_other_images_are_fewer() -> None:
    """Six codes, four training images, a sample of H: more images of H would change nothing."""
    rng = np.random.default_rng(0)
    few_codes = nearer_test("nearer to T than to H, decoded prototypes", *rng.normal(size=(2, 6, 300)))
    sampled = membership_tests("denoiser", scores(150, 150), held=3000)[0]
    for test in (few_codes, sampled):
        assert (test.verdict, test.few) == ("WARN", None)
        assert not [line for line in summary([test], [], 300) if "hold-out" in line]
    many_codes = nearer_test("nearer to T than to H, decoded prototypes", *rng.normal(size=(2, 300, 20)))
    assert (many_codes.verdict, many_codes.few is None) == ("WARN", False)


def test_other_causes_have_a_line_each() -> None:
    tests = [
        not_run("membership of the VAE decoder", "no encoder: give --run RUN"),
        not_run("membership of the prototypes", "no encoder: give --run RUN"),
        Outcome("number of images", 60.0, None, 500.0, "WARN", "60 images"),
        Outcome("near duplicates of T, images", 1.0, None, 0.0, "WARN", "of 60 images; 2 of 20 of H are too"),
    ]
    assert summary(tests, [], 20) == (
        "Found: nothing.",
        "Undecided: 2 of 4 tests. No encoder: give --run RUN.",
        "Undecided: 1 of 4 tests. Too few images were judged.",
        "Undecided: 1 of 4 tests. Some images show what a training image shows, but so do images of the hold-out.",
    )


def test_what_was_found_is_told_by_its_meaning() -> None:
    found = summary([COPIED, PASSED], [], 20)
    assert found[0] == ("Found by 1 of 2 tests: Images show what a training image shows, almost point by point.")


def test_a_wrong_control_leaves_no_claim_that_nothing_was_found() -> None:
    blind = control(Outcome("replication, T replayed, structure", 0.0, (0.0, 0.0), 0.02, "PASS"), "FAIL")
    said = summary([PASSED], [blind], 500)
    assert said == (
        "Proved: nothing, as 1 of 1 control came out otherwise than it must. "
        "A control is a case whose answer is known.",
    )
    open_control = control(Outcome("replication, H2, structure", 0.0, (0.0, 0.1), 0.02, "WARN"), "PASS")
    assert summary([PASSED], [open_control], 20)[1:] == (
        "Undecided: 1 of 1 control. A control is a case whose answer is known.",
    )


def test_a_summary_has_no_letters_and_the_legend_has_them_all() -> None:
    tests = [
        not_run("membership", "half of H, which is H1, shows T"),
        Outcome("membership of the students of the generated images, log-odds: AUC", 0.5, None, 0.6, "FAIL"),
    ]
    for line in summary(tests, [], 20):
        assert not re.search(r"\b(T|H|H1|H2)\b", line), line
    assert set(re.findall(r"\b(T|H|H1|H2|AUC|TPR|FPR)\b", LEGEND)) == {"T", "H", "H1", "H2", "AUC", "TPR", "FPR"}


def test_a_note_that_tests_share_stands_once() -> None:
    tests = [
        Outcome("a", None, None, None, "WARN", "20 of T, 20 of H; about 2.0 times as many images would decide"),
        Outcome("b", None, None, None, "PASS"),
        Outcome("c", None, None, None, "WARN", "20 of T, 20 of H"),
    ]
    notes, marks = numbered_notes(tests)
    assert notes == ["20 of T, 20 of H", "about 2.0 times as many images would decide"]
    assert marks == ["1, 2", "", "1"]
