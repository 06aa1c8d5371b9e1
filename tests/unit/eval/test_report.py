"""The report page, parsed with html.parser."""

import json
import os
import re
import subprocess
from dataclasses import asdict, replace
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dpd_eval.evaluation import differences, verdicts
from dpd_eval.report import Release, release, write_report
from dpd_eval.report_charts import nice_ticks, style
from dpd_eval.report_inputs import Inputs
from dpd_eval.report_records import hide_paths, read_audit, read_evaluation, short_names
from dpd_eval.report_tables import class_table, everything, headline, outcome, verdict
from dpd_eval.results import Evaluation, Repeats
from dpd_eval.statistics import Interval
from dpd_runtime.bench import bench
from dpd_runtime.bundle import embedded_bundle, load_bundle
from dpd_runtime.errors import BundleError, InputError
from dpd_runtime.sealing import write_audited
from tests.commands import dpd
from tests.drawn import quick_bundle
from tests.drawn_results import PAIRS, audit, evaluation, soft, write_json, write_set

VOID = {"meta", "link", "img", "br", "hr"}
BLOCKS = {"td", "th", "caption", "p", "li", "dt", "dd", "h1", "h2", "h3", "h4", "summary", "figcaption", "title", "pre"}
SECRETS = ("/home/", "alice", "/tmp/", "my data")


class Page(HTMLParser):
    """Elements with their attributes, the text of the page, and whether every tag is closed in its order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)
        if tag in BLOCKS:
            self.text += " "

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def words(self) -> str:
        return " ".join(self.text.split())  # no-break spaces count as spaces


def made(folder: Path, *paths: Path) -> tuple[Page, str]:
    out = folder / "page.html"
    write_report(paths, out)
    html = out.read_text(encoding="utf-8")
    page = Page(html)
    assert page.wrong == []
    assert page.open == []
    return page, html


def one(folder: Path, result: Evaluation, name: str = "result") -> tuple[Page, str]:
    return made(folder, write_json(folder / f"{name}.json", result.to_dict()))


def rich(folder: Path) -> list[Path]:
    students, baselines = ("convnet", "vit-tiny"), ("random", "herding", "full")
    whole = evaluation(students=students, baselines=baselines, pairs={10: 8, 50: 5})
    return [
        write_json(folder / "hard.json", whole.to_dict()),
        write_json(
            folder / "soft.json", soft(evaluation(students=students, pairs={10: 8, 50: 5}, bonus=0.1)).to_dict()
        ),
        write_json(folder / "audit.json", audit()),
        write_json(folder / "bench.json", {"hardware": "a GPU", "timings": [{"what": "generate", "seconds": 3.5}]}),
        write_set(folder / "set0"),
    ]


def test_what_dpd_bench_says_is_shown(tmp_path: Path) -> None:
    said = asdict(
        bench(load_bundle(Path(__file__).parents[2] / "frozen" / "format4.dpd"), blocks=1, provider="cpu", threads=1)
    )
    page, _ = made(tmp_path, write_json(tmp_path / "bench.json", said))
    text = " ".join(page.text.split())
    assert f"Timings: bench, on {said['provider']}, 1 thread" in text
    for part in ("decoded images", "loading", *(f"calls of {n}" for n in said["networks"])):
        assert part in text, part


# -- the verdict


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.001, 0.02, "ahead"),
        (0.0, 0.02, "ahead"),
        (-0.02, -0.001, "behind"),
        (-0.02, 0.0, "not resolved"),
        (-0.01, 0.02, "not resolved"),
        (0.0, 0.0, "not resolved"),
        (None, None, "not resolved"),
    ],
)
def test_the_rule_of_a_verdict(low: float | None, high: float | None, expected: str) -> None:
    assert outcome(Interval(0.0, low, high, 1)) == expected


def test_the_sentence_says_who_where_how_much_and_how_sure(tmp_path: Path) -> None:
    """The values of committed results; those of the first are in the README's table."""
    committed = Path(__file__).parents[3] / "recipes" / "results"
    page, _ = made(tmp_path, committed / "eurosat_10.json")
    assert "The set is ahead of random real images in the only comparison." in page.words()
    assert (
        "The set is ahead of random real images at IPC 10 with student convnet: 73.1 % against 63.0 %, "
        "+10.11 points (95 % interval +8.58 to +11.64, 5 bundles)." in page.words()
    )
    page, _ = made(tmp_path, committed / "eurosat_longitude.json")
    assert (
        "The set is behind real images chosen by herding at IPC 10 with student convnet: 55.5 % against 57.4 %, "
        "−1.87 points (95 % interval −3.49 to −0.25, 5 pairs)." in page.words()
    )
    assert "1 generated set for 5 pairs" in page.words()


def test_the_verdict_comes_before_everything_else(tmp_path: Path) -> None:
    page, _ = made(tmp_path, *rich(tmp_path))
    sections = [attributes["id"] for attributes in page.all("section")]
    assert sections[:3] == ["release", "verdict", "images"], "and what may leave before it"
    assert sections[-1] == "provenance"


def test_a_sentence_for_each_comparison(tmp_path: Path) -> None:
    result = evaluation(students=("convnet", "resnet"), baselines=("random", "herding", "full"))
    page, _ = one(tmp_path, result)
    for gap in result.differences:
        mean = f"{100 * gap.difference.mean:+.2f}".replace("-", "−")
        assert page.words().count(f"{mean} points (95 % interval") >= 1, gap
    assert len(page.all("circle")) == len(result.differences)


def test_a_site_with_images_of_its_own_is_shown_apart(tmp_path: Path) -> None:
    result = evaluation(baselines=("random", "5 real", "set + 5 real"), pairs={10: 8})
    page, _ = one(tmp_path, result)
    found = verdict(read_evaluation(result.to_dict(), "x", "x"))
    titles = ["Against random real images", "Against 5 real images per class", "The set with 5 real images per class"]
    assert [group.title for group in found.groups] == titles
    assert [len(group.sentences) for group in found.groups] == [1, 1, 2]
    assert "random real images" in found.headline
    assert found.headline.endswith("in the only comparison.")
    assert page.words().count("The set with 5 real images per class") >= 3  # the title and two sentences
    arms = ("set", "random", *(f"{start}{k} real" for k in (1, 5, 20) for start in ("", "set + ")))
    assert len({style(name, arms) for name in arms}) == 8
    shares = replace(result, at_least=0.9, verdicts=verdicts(result.arms, PAIRS, 0.9))
    words = one(tmp_path, shares)[0].words()
    assert "Goal of 90 % of the accuracy of 5 real images per class" in words
    assert "Goal for the set with 5 real images per class of 90 % of the accuracy of the set" in words


def test_what_a_teacher_adds_is_shown_apart_and_the_command_names_one(tmp_path: Path) -> None:
    result = evaluation(baselines=("random", "full", "taught set", "taught random"), pairs={10: 8})
    result = replace(result, config={"recipe": "quick"})
    page, _ = one(tmp_path, result)
    found = verdict(read_evaluation(result.to_dict(), "x", "x"))
    titles = ["Against random real images", "Against the full real training data", "The set under the teacher"]
    assert [group.title for group in found.groups] == titles
    assert [sentence.text.split(" at IPC")[0] for sentence in found.groups[2].sentences] == [
        "The set under the teacher and the set cannot be told apart",
        "The set under the teacher is behind the full real training data",
        "The set under the teacher and random real images under the teacher cannot be told apart",
    ]
    assert "--teacher BUNDLE" in page.text.split("dpd evaluate ")[1]
    labels = {arm: row[3].text for arm, *row in ((r[0].text, *r) for r in everything(result).rows)}
    assert labels["random real images"] == "hard"
    assert labels["the set under the teacher"] == labels["random real images under the teacher"] == "teacher"


def test_the_set_is_not_compared_with_itself_under_a_teacher(tmp_path: Path) -> None:
    result = evaluation(baselines=("taught set",), pairs={10: 8})
    found = verdict(read_evaluation(result.to_dict(), "x", "x"))
    assert found.headline == "The set was compared with nothing: the evaluation has no baseline."
    assert [group.title for group in found.groups] == ["The set under the teacher"]
    table = class_table(result, result.settings()[0])
    assert table is not None
    assert not any("−" in column for column in table.columns)


def test_few_pairs_validation_images_and_one_set_are_said(tmp_path: Path) -> None:
    result = replace(evaluation(pairs={10: 4}), test_part="val", test="val", sets=("set0",))
    page, _ = one(tmp_path, result)
    assert "Preliminary: results at this IPC need at least 8 pairs." in page.words()
    assert "Tested on validation images" in page.words()
    assert "1 generated set for 4 pairs: the intervals include nothing of" in page.words()
    page, _ = one(tmp_path, replace(evaluation(pairs={10: 8}), sets=tuple(f"set{i}" for i in range(8))))
    for word in ("Preliminary", "validation images,", "generated sets for"):
        assert word not in page.words()


def test_intervals_over_bundles_are_called_so(tmp_path: Path) -> None:
    result = evaluation(pairs={10: 8})
    over = Repeats(("a", "b", "c", "d"))
    found = replace(result, repeated=over.unit, differences=differences(result.arms, over))
    words = one(tmp_path, found)[0].words()
    assert ", 4 bundles)" in words
    assert "Preliminary: results at this IPC need at least 5 bundles." in words
    assert "generated sets for" not in words, "the intervals are over bundles, which have a set each"
    assert "8 pairs)" not in words


def test_one_pair_has_no_interval_and_resolves_nothing(tmp_path: Path) -> None:
    page, _ = one(tmp_path, evaluation(pairs={10: 1}))
    assert "cannot be told apart in the only comparison" in page.words()
    assert "(1 pair, no interval)" in page.words()


def test_a_goal_below_one_is_told_and_the_goal_of_one_is_not_told_twice(tmp_path: Path) -> None:
    result = evaluation()
    assert "Goal of" not in one(tmp_path, result)[0].words()
    page, _ = one(tmp_path, replace(result, at_least=0.9, verdicts=verdicts(result.arms, PAIRS, 0.9)))
    assert "Goal of 90 % of the accuracy of random real images at IPC 10 with student convnet: met" in page.words()


def test_soft_labels_are_named(tmp_path: Path) -> None:
    page, _ = one(tmp_path, soft(evaluation()))
    assert "at IPC 10 with student convnet and soft labels" in page.words()


def test_no_baseline_is_no_verdict(tmp_path: Path) -> None:
    record = read_evaluation(evaluation(baselines=()).to_dict(), "x", "x")
    assert headline(verdict(record).groups) == "The set was compared with nothing: the evaluation has no baseline."


def test_an_audit_is_in_the_verdict_and_its_lack_too(tmp_path: Path) -> None:
    page, _ = made(tmp_path, write_json(tmp_path / "audit.json", audit("FAIL")), write_set(tmp_path / "set0"))
    assert "Privacy audit (audit): FAIL" in page.words()
    assert "No privacy audit: set0." in page.words()
    assert [a["id"] for a in page.all("section")] == ["release", "verdict", "images", "audit", "provenance"]
    made_by = json.loads((tmp_path / "set0" / "dataset.json").read_text())["bundle_hash"]
    of_its_bundle = audit("PASS") | {"audited": {"bundle_hash": made_by}}
    page, _ = made(tmp_path, write_json(tmp_path / "audit.json", of_its_bundle), tmp_path / "set0")
    assert "No privacy audit" not in page.words()


def test_what_a_foreign_set_or_bundle_says_of_itself_is_a_claim(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set0")
    said = json.loads((folder / "dataset.json").read_text())
    said |= {"signature": "signed by trusted key lab (0)", "audit": "PASS"}
    (folder / "dataset.json").write_text(json.dumps(said))
    bundle = load_bundle(quick_bundle(tmp_path / "quick"))
    write_audited(bundle, tmp_path / "site", {"verdict": "PASS", "tests": [], "controls": []}, "PASS")
    page, _ = made(tmp_path, folder, tmp_path / "site")
    words = page.words()
    assert "as the set claims: site, PASS, signed by trusted key lab (0)" in words
    assert words.count("signed by trusted key") == 1
    assert "Privacy audit (site, as the bundle claims, which no trusted key signed): PASS" in words
    assert "Audit, as the bundle claims, which no trusted key signed: PASS." in words
    page, _ = made(tmp_path, embedded_bundle())
    assert "as the bundle claims" not in page.words()


def test_the_part_on_an_audit_begins_with_what_was_found(tmp_path: Path) -> None:
    """As the record says it, or as its tests do in a record without a summary. Letters are defined beside it."""
    old = audit("WARN")
    now = old | {"summary": ["Found: nothing.", "Undecided: 1 of 2 tests, as the hold-out has 20 images."]}
    for record, lines in (
        (now, "Found: nothing. Undecided: 1 of 2 tests, as the hold-out has 20 images."),
        (old, "Found: nothing. Undecided: 1 of 2 tests. The interval holds the limit: "),
    ):
        page, _ = made(tmp_path, write_json(tmp_path / "audit.json", record))
        part = page.words().split("Privacy audit")[-1].replace("\N{NO-BREAK SPACE}", " ").split()
        assert " ".join(part).startswith(lines)
        assert "H1 and H2 are random halves" in " ".join(part)


def test_notes_that_tests_share_stand_once_below_their_table(tmp_path: Path) -> None:
    shared = "1500 of T, 1500 of H"
    tests = [
        {"name": f"t{i}", "value": 0.5, "interval": None, "threshold": 0.6, "verdict": "WARN", "note": shared}
        for i in range(20)
    ]
    power = {"all_copied": 0.7, "few_copied": 0.51, "most_copied": 0.2}
    tests[3] |= {"note": f"{shared}; about 2.0 times as many", "power": power}
    page, html = made(tmp_path, write_json(tmp_path / "audit.json", audit() | {"tests": tests}))
    assert html.count(shared) == 1
    words = " ".join(page.words().split())
    assert "t3 0.5 – 0.6 WARN 1, 2" in words
    assert "t3 0.7 0.51 20 %" in words


# -- what may leave


def released(*records: dict[str, object]) -> Release:
    said = release(Inputs(audits=tuple(read_audit(record, f"audit{i}", "x") for i, record in enumerate(records))))
    assert said is not None
    return said


def test_a_warning_leaves_the_decision_to_the_reader_and_says_what_is_open() -> None:
    said = released(audit("WARN"))
    assert said.may == (
        "These may leave: audit0, if you accept what is undecided, as no test of the audit failed. Sets that are "
        "generated from a bundle may go wherever the bundle may."
    )
    assert said.may_not.startswith("These may not leave: the training images, run folders")
    assert said.undecided.replace("\N{NO-BREAK SPACE}", " ") == (
        "Undecided: 1 test did not decide (membership of the teacher)."
    )


def test_a_run_folder_never_leaves_whatever_its_audit_says() -> None:
    said = released(audit("WARN") | {"audited": {"name": "site-run", "kind": "run", "bundle_hash": None}})
    assert said.may == "Nothing that this report shows may leave."
    assert "run folders" in said.may_not


def test_names_with_commas_are_told_apart() -> None:
    record = audit("WARN")
    tests: Any = record["tests"]
    record["tests"] = [tests[0] | {"name": name, "verdict": "WARN"} for name in ("scan", "nearer to T, structure")]
    assert "(scan; nearer to the training images, structure). " in released(record).undecided + " "


def test_nothing_leaves_after_a_failed_audit() -> None:
    said = released(audit("FAIL"))
    assert said.may == "Nothing that this report shows may leave."
    assert said.may_not.endswith("; audit0, whose audit failed.")


def test_a_failure_is_not_hidden_by_a_pass_of_the_same_name() -> None:
    named = [record | {"audited": {"name": "set0", "kind": "set"}} for record in (audit("FAIL"), audit("PASS"))]
    said = released(*named)
    assert said.may.startswith("These may leave: set0 (audit1), as every test of the audit passed.")
    assert said.may_not.endswith("; set0 (audit0), whose audit failed.")


def test_a_verdict_that_a_bundle_claims_is_told_as_a_claim() -> None:
    own = read_audit(audit("PASS"), "site", "x", claimed=True)
    said = release(Inputs(audits=(own,)))
    assert said is not None
    assert said.may.startswith("These may leave: site (as the bundle claims), as every test")


def test_a_pass_is_called_a_measurement() -> None:
    passed = audit("PASS")
    passed["tests"] = passed["tests"][:1]  # type: ignore[index]
    said = released(passed, audit("FAIL"))
    assert said.may.startswith("These may leave: audit0, as every test of the audit passed.")
    assert released(passed).undecided.endswith("A PASS is a measurement, not a proof.")


def test_a_pass_that_copies_would_have_too_is_undecided() -> None:
    record = audit("PASS")
    test: dict[str, object] = record["tests"][0]  # type: ignore[index]
    limit = test["threshold"]
    for copied, words in ((limit, "1 test would pass copies of training images too"), (1e9, "left nothing undecided")):
        power = {"all_copied": copied, "few_copied": 0.0, "most_copied": 1.0}
        said = released(record | {"tests": [test | {"power": power}]})
        assert words in said.undecided.replace("\N{NO-BREAK SPACE}", " ")


def test_controls_count_as_undecided() -> None:
    record = audit("WARN")
    replayed: dict[str, object] = record["controls"][0]  # type: ignore[index]
    wrong, imprecise = replayed | {"verdict": "PASS"}, replayed | {"expected": "PASS", "verdict": "WARN"}
    said = released(record | {"tests": [], "controls": [wrong, imprecise], "reasons": ["The controls say nothing."]})
    words = said.undecided.replace("\N{NO-BREAK SPACE}", " ")
    assert "1 control came out otherwise than it must (a set that replays the training images)" in words
    assert "1 control was too imprecise to decide (a set that replays the training images)" in words
    assert words.endswith(" The controls say nothing.")


def test_what_nobody_audited_and_real_images_stay(tmp_path: Path) -> None:
    page, _ = made(tmp_path, write_set(tmp_path / "set0"), write_set(tmp_path / "real", real_images=True))
    words = page.words()
    assert "Nothing that this report shows may leave." in words
    assert "set0, which nobody has audited; real, which holds real images." in words
    assert "Everything is undecided: there is no audit." in words


# -- what the page is


def test_it_is_one_file_that_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    page, html = made(tmp_path, *rich(tmp_path), embedded_bundle())
    assert page.all("script") == []
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, name, value)
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy


def test_same_inputs_same_bytes_wherever_they_lie(tmp_path: Path) -> None:
    pages = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_report(rich(tmp_path / name), tmp_path / f"{name}.html")
        pages.append((tmp_path / f"{name}.html").read_bytes())
    assert pages[0] == pages[1]


def test_no_path_of_this_machine_is_in_it(tmp_path: Path) -> None:
    _, html = made(tmp_path, *rich(tmp_path), embedded_bundle())
    text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", html)
    for secret in (*SECRETS, str(tmp_path), str(Path.home()) + os.sep, str(embedded_bundle().parent)):
        assert secret not in text
    assert "eurosat/train" in text  # the control: the folder's name alone is there


def test_everything_from_files_is_escaped(tmp_path: Path) -> None:
    evil = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a&amp;b", "{{ 7 * 7 }}")
    result = evaluation(classes=evil, baselines=("random", "<b>mine</b>"), students=("<i>net</i>",))
    result = replace(result, notes=("<script>note</script>",), versions={"<u>": "<s>1</s>"})
    content = result.to_dict() | {"sets": ["<script>x</script>"], "train": "<p>", "test": "'><p>"}
    context = {"evaluation": content, "<h1>key</h1>": "<h1>value</h1>"}
    named = write_set(tmp_path / "<q>set", ("A <script>", "B & C"), bundle_name="<script>", provider="<x>")
    page, _ = made(tmp_path, write_json(tmp_path / "<code>.json", context), named)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "b", "i", "u", "s", "q", "x"}
    assert len(page.all("h1")) == 1
    assert all((a.get("src") or "").startswith("data:image/jpeg;base64,") for a in page.all("img"))
    for words in (*evil, "<b>mine</b>", "<script>note</script>", "<h1>value</h1>", "A <script>", "<u>"):
        assert " ".join(words.split()) in page.words(), words


def test_it_can_be_heard_and_read_without_colour(tmp_path: Path) -> None:
    page, _ = made(tmp_path, *rich(tmp_path))
    assert page.all("html") == [{"lang": "en"}]
    assert [tag for tag, _ in page.elements if tag in ("h1", "h2")] == ["h1", *["h2"] * len(page.all("section"))]
    assert len(page.all("caption")) == len(page.all("table")) > 5
    assert all(a.get("alt") for a in page.all("img"))
    assert {a.get("scope") for a in page.all("th")} == {"row", "col"}
    for drawing in page.all("svg"):
        assert drawing.get("role") == "img" or drawing.get("aria-hidden") == "true"
    named = {a["id"] for tag, a in page.elements if tag in ("title", "desc") and "id" in a}
    labels = {i for a in page.all("svg") for i in (a.get("aria-labelledby") or "").split()}
    assert labels == named != set()
    shapes = [a["d"] for a in page.all("path") if a.get("class") == "mark" and "transform" not in a]
    assert len(set(shapes[:3])) == 3  # set, random and herding by shape; full is a level without marks


def test_a_figure_says_its_numbers(tmp_path: Path) -> None:
    result = evaluation(baselines=("random", "full"))
    page, _ = one(tmp_path, result)
    ours = next(arm for arm in result.arms if (arm.arm, arm.ipc) == ("set", 50))
    assert f"{100 * ours.oa_mean:.1f} % at IPC 50" in page.words()


# -- what is in it


def test_tables_hold_the_figures_of_the_file(tmp_path: Path) -> None:
    result = evaluation(students=("convnet", "resnet"), baselines=("random", "k-means"))
    page, _ = one(tmp_path, result)
    for arm in result.arms:
        assert arm.oa_std is not None
        assert f"{100 * arm.oa_mean:.2f} ± {100 * arm.oa_std:.2f}" in page.words()
        assert f"{arm.kappa:.4f}" in page.words()
    text = page.words()
    assert "329 946" in text
    assert "own: ResNet 32-64, weights 0123456789ab" in text
    assert "Most frequent errors: " in text


def test_detail_is_told_as_shares_of_the_held_out_real_images(tmp_path: Path) -> None:
    """The drawn arms have half their power, three quarters of their contrast and half their kurtosis."""
    page, _ = one(tmp_path, evaluation(pairs={10: 8}))
    text = page.words()
    assert "Power by octave, in cycles an image, ÷ that of the held-out real images" in text
    assert "set 10 0.50 0.50" in text
    assert "Highway 0.75 0.75" in text
    assert "Highway 9.0 4.5 4.5" in text


def test_results_of_before_detail_was_measured_are_shown_without_it(tmp_path: Path) -> None:
    content = evaluation().to_dict()
    del content["detail"]
    page, _ = made(tmp_path, write_json(tmp_path / "result.json", content))
    assert "Power by octave, in cycles" not in page.words()


def test_confusions_are_shares_of_the_true_class(tmp_path: Path) -> None:
    result = evaluation(classes=("A", "B"), pairs={10: 8})
    arms = tuple(replace(arm, confusion=((30, 10), (1, 199))) for arm in result.arms)
    page, _ = one(tmp_path, replace(result, arms=arms))
    assert "Most frequent errors: A classified as B, 25 %" in page.words()


def test_two_evaluations_of_one_test_are_an_ablation(tmp_path: Path) -> None:
    first = evaluation(pairs={10: 8})
    second = replace(evaluation(pairs={10: 8}, bonus=0.2), recipe=replace(first.recipe, cutmix=0.25))
    paths = [write_json(tmp_path / f"{n}.json", e.to_dict()) for n, e in (("plain", first), ("better", second))]
    page, _ = made(tmp_path, *paths)
    assert "ablation" in [a["id"] for a in page.all("section")]
    text = page.words()
    assert "recipe cutmix 0.5 0.25" in text
    ours, theirs = (next(arm for arm in e.arms if arm.arm == "set") for e in (second, first))
    gap = sum(a - b for a, b in zip(ours.oa_runs, theirs.oa_runs, strict=True)) / 8
    assert f"+{100 * gap:.2f} (" in text[text.index("Comparison of evaluations") :]
    other = write_json(tmp_path / "other.json", evaluation(classes=("X", "Y")).to_dict())
    page, _ = made(tmp_path, paths[0], other)
    assert "ablation" not in [a["id"] for a in page.all("section")]


def test_the_pairs_of_a_probe_on_one_set_are_one_repeat(tmp_path: Path) -> None:
    """It has no seed: they are the same training again, and give no interval."""

    def probed(accuracy: float, name: str) -> Path:
        drawn = evaluation(pairs={10: 8})
        (ours,) = [arm for arm in drawn.arms if arm.arm == "set" and arm.student == "convnet"]
        arm = replace(ours, student="probe:hf:vit", oa_mean=accuracy, oa_runs=(accuracy,) * 8)
        students = {arm.student: drawn.students["convnet"]}
        one = replace(drawn, arms=(arm,), students=students, differences=(), sets=drawn.sets[:1], metrics=(), detail=())
        return write_json(tmp_path / f"{name}.json", one.to_dict())

    page, _ = made(tmp_path, probed(0.84, "plain"), probed(0.841, "better"))
    text = page.words()
    assert re.search(r"\+0\.10(?! \()", text[text.index("Comparison of evaluations") :])


def test_what_was_not_measured_has_no_section(tmp_path: Path) -> None:
    page, _ = one(tmp_path, replace(evaluation(), metrics=(), detail=(), notes=(), versions={}, students={}))
    shown = ["verdict", "curves", "architectures", "classes", "timings", "provenance"]
    assert [a["id"] for a in page.all("section")] == shown
    assert "The students" not in page.words()


def test_a_set_shows_its_classes_and_how_to_make_it(tmp_path: Path) -> None:
    page, _ = made(tmp_path, write_set(tmp_path / "set0", ("Forest", "River"), ipc=12))
    assert [a["alt"] for a in page.all("img")] == [f"10 generated images of class {c}" for c in ("Forest", "River")]
    assert "24 images of 2 classes, seed 3, made from the bundle site on cpu." in page.words()
    command = f"dpd generate site.dpd \\ --config set0/dataset.json \\ --expect {'d' * 64} \\ --out set0-again"
    assert command in page.words()
    assert "No command repeats" not in page.words()


def test_records_without_options_have_no_command_and_the_page_says_so(tmp_path: Path) -> None:
    page, _ = made(tmp_path, write_set(tmp_path / "set0", config=None))
    assert "dpd generate" not in page.words()
    assert "No command repeats set0. " in page.words()


@pytest.mark.parametrize(
    ("watchers", "words"), [([], "the run's own networks see"), (["hf:net"], "the run's own networks, hf:net see")]
)
def test_a_set_names_the_networks_that_watched(tmp_path: Path, watchers: list[str], words: str) -> None:
    folder = write_set(tmp_path / "set0")
    before, _ = made(tmp_path, folder)
    assert "codes were matched" not in before.words()
    said = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(said | {"watchers": watchers}))
    page, _ = made(tmp_path, folder)
    assert f"Its codes were matched in what {words}." in page.words()


def test_a_packed_set_has_no_pictures_and_says_so(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "packed", format="parquet", image_format="webp", soft_labels=True)
    for image in folder.glob("*/*.png"):
        image.unlink()
    page, _ = made(tmp_path, folder)
    assert page.all("img") == []
    assert "packed as parquet" in page.words()


def test_a_set_of_tiff_files_has_its_pictures(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set0", ("Forest",))
    for path in folder.glob("*/*.png"):
        Image.open(path).save(path.with_suffix(".tiff"))
        path.unlink()
    page, _ = made(tmp_path, folder)
    assert len(page.all("img")) == 1


def test_real_images_stay_out(tmp_path: Path) -> None:
    about = {"real_images": True, "method": "k-means", "extractor": "hf:some/net: ViT, weights 0", "seed": None}
    page, html = made(tmp_path, write_set(tmp_path / "real", **about))
    assert page.all("img") == []
    assert "data:image" not in html
    assert "dpd select DATA \\ --config real/dataset.json \\ --out real-again" in page.words()


def test_an_evaluation_is_repeated_from_its_own_file(tmp_path: Path) -> None:
    result = evaluation(baselines=("random", "k-center"), pairs={10: 4, 50: 5})
    page, _ = one(tmp_path, replace(result, recipe=replace(result.recipe, cutmix=0.1), config={"pairs": 4}))
    words = "dpd evaluate set0 set1 \\ --config result.json \\ --train eurosat/train \\ --test eurosat/test \\ "
    assert words + "--recipe quick.toml \\ --out result-again.json" in page.words()
    assert "cutmix = 0.1" in page.words()  # the recipe as a file, since the package ships another
    page, _ = one(tmp_path, result)
    assert "dpd evaluate" not in page.words()
    assert "No command repeats result. " in page.words()
    assert "cutmix = " not in page.words()


def test_what_could_travel_instead_is_said_in_words(tmp_path: Path) -> None:
    page, _ = one(tmp_path, evaluation(baselines=("random", "labels", "jpegs in 3.1 MB")))
    assert "real images that a classifier named" in page.words()
    assert "real images as JPEGs in 3.1 MB" in page.words().replace("\N{NO-BREAK SPACE}", " ")


def test_commands_are_quoted_for_a_shell(tmp_path: Path) -> None:
    result = replace(evaluation(), sets=("/data/my set; rm -rf x", "/data/-o"), train="/data/$(id)", config={})
    page, _ = one(tmp_path, result)
    lines = next(t for t in page.text.split("dpd evaluate ")[1:])
    head = lines.split("--test")[0].replace("\\\n", " ")
    printed = subprocess.run(["/bin/sh", "-c", f"printf '%s\\n' {head}"], capture_output=True, text=True, check=True)
    assert printed.stdout.splitlines() == ["my set; rm -rf x", "./-o", "--config", "result.json", "--train", "$(id)"]


def test_an_evaluation_inside_another_file_has_no_command(tmp_path: Path) -> None:
    content = {"evaluation": evaluation().to_dict() | {"config": {}}, "date": "today"}
    page, _ = made(tmp_path, write_json(tmp_path / "result.json", content))
    assert "dpd evaluate" not in page.words()
    assert "date today" in page.words()


def test_the_embedded_bundle_is_described_and_needs_no_name(tmp_path: Path) -> None:
    bundle = embedded_bundle()
    if not bundle.is_file():
        pytest.skip("the package holds no embedded bundle")
    from dpd_runtime.bundle import load_bundle

    folder = write_set(tmp_path / "set0", bundle_hash=load_bundle(bundle).hash)
    page, _ = made(tmp_path, bundle, folder)
    assert "Bundle eurosat64.dpd" in page.words()
    assert "dpd generate \\ --config set0/dataset.json" in page.words()
    assert "HerbaceousVegetation" in page.words()


def test_a_run_is_shown_without_its_private_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "private").mkdir(parents=True)
    (run / "private" / "quarantine.csv").write_text("secret.png,truncated\n")
    content = {
        "config": {"base": "/home/alice/nano", "ipc": 3, "steps": 4, "seed": 1, "resolution": None, "tune_vae": True},
        "data": {"images": 20, "classes": {"Forest": 10, "River": 10}, "sha256": "f" * 64},
        "prototypes": {"Forest": 3, "River": 2},
        "metrics": {
            "teacher_oa": 0.75,
            "vae": {"psnr": 31.5},
            "denoiser": [{"step": 1}],
            "noise_levels": {"denoiser": {"940": 0.541}, "class Gaussian": {"940": 0.5302}},
        },
        "versions": {"torch": "2.13.0"},
        "seconds": 12.5,
    }
    write_json(run / "run.json", content)
    page, html = made(tmp_path, run)
    assert "vae psnr 31.5" in page.words()
    assert "timestep denoiser class Gaussian 940 0.541 0.530" in page.words()
    assert "noise levels denoiser 940" not in page.words()
    assert "dpd train DATA \\ --config run/run.json \\ --out run-again" in page.words()
    assert "secret" not in html
    hidden = write_json(run / "private" / "result.json", evaluation().to_dict())
    with pytest.raises(InputError, match="private folder"):
        write_report([hidden], tmp_path / "no.html")


# -- what it refuses


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", "{", "is not JSON"),
        ("a.json", "[1]", "contains a list"),
        ("a.json", '{"a": 1}', "not a result that a report can show"),
        ("a.json", '{"verdict": "FINE", "tests": []}', "verdict: Invalid enum value 'FINE'"),
        ("a.json", '{"timings": [{"a": [1]}]}', "timings[0][...]: Expected bool | float | str | null, got array"),
        ("notes.txt", "hello", "was not written by dpd"),
        ("missing", None, "does not exist"),
    ],
)
def test_what_it_cannot_show_it_names(tmp_path: Path, name: str, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as caught:
        write_report([tmp_path / name], tmp_path / "page.html")
    assert words in str(caught.value)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("oa_mean", "high"),
        ("oa_mean", 61.8),
        ("oa_mean", None),
        ("ipc", 2.5),
        ("ipc", 0),
        ("oa_runs", [True]),
        ("class_accuracy", [1]),
        ("confusion", [[1, 2], [3]]),
        ("confusion", [[-1]]),
        ("student", 5),
        ("seconds", 1e400),
    ],
)
def test_damaged_figures_are_refused_by_name(tmp_path: Path, field: str, value: object) -> None:
    content = evaluation().to_dict()
    content["arms"][1][field] = value
    (tmp_path / "bad.json").write_text(json.dumps(content))
    with pytest.raises(InputError) as caught:
        write_report([tmp_path / "bad.json"], tmp_path / "page.html")
    assert "bad.json" in str(caught.value)
    named = (f"arms[1].{field}", f"arms[1]: {field}", "not JSON")
    assert any(words in str(caught.value) for words in named), str(caught.value)


def test_folders_that_are_no_result(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match=r"contains no dataset\.json, bundle\.json or run\.json"):
        write_report([empty], tmp_path / "page.html")
    (empty / "state.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="the set is unfinished"):
        write_report([empty], tmp_path / "page.html")
    outside = write_set(tmp_path / "set0", ("A", "B"), counts={"../empty": 3})
    with pytest.raises(InputError, match="not a folder of the set"):
        write_report([outside], tmp_path / "page.html")
    (tmp_path / "fake.dpd").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(BundleError):
        write_report([tmp_path / "fake.dpd"], tmp_path / "page.html")


def test_an_image_that_is_not_there_or_leads_outside(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set0", ("A", "B"))
    (folder / "A" / "A_00000.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="cannot be read as an image"):
        write_report([folder], tmp_path / "page.html")
    (folder / "A" / "A_00000.png").unlink()
    (folder / "A" / "A_00000.png").symlink_to(write_set(tmp_path / "other", ("A", "B")) / "A" / "A_00001.png")
    page, _ = made(tmp_path, folder)
    assert page.all("img")[0]["alt"] == "2 generated images of class A"


def test_bad_arguments(tmp_path: Path) -> None:
    path = write_json(tmp_path / "result.json", evaluation().to_dict())
    for paths, out, words in (
        ([], "page.html", "no PATH given"),
        ([path, path], "page.html", "is given twice"),
        ([path], ".", "is a folder"),
        ([path], "none/page.html", "does not exist"),
        ([path], "result.json", "is one of the inputs"),
    ):
        with pytest.raises(InputError, match=words):
            write_report(paths, tmp_path / out)


# -- names instead of paths


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/alice/data/set0", "set0"),
        ("SET /home/alice/set0: 2 files, first b/x.png: bad", "SET set0: 2 files, first b/x.png: bad"),
        ("~/sets/a and ~alice/b", "a and b"),
        ("../../alice/set0", "set0"),
        (r"C:\Users\alice\set0 and \\host\share\b", "set0 and b"),
        ("file:///home/alice/x.json", "x.json"),
        ("path=/home/alice/x:/home/alice/y", "path=y"),
        ("hf:/home/alice/net", "hf:net"),
        ("hf:google/vit and https://example.org/a/b", "hf:google/vit and https://example.org/a/b"),
        ("hard/soft, 3 / 4, eurosat/train", "hard/soft, 3 / 4, eurosat/train"),
        ("a\x1b[31m\u202eb", "a�[31m�b"),
    ],
)
def test_paths_are_cut_to_names(text: str, shown: str) -> None:
    assert hide_paths(text) == shown


@given(st.lists(st.text("ab./", min_size=1, max_size=12), min_size=1, max_size=4, unique=True))
def test_short_names_tell_nothing_of_roots_and_keep_paths_apart(paths: list[str]) -> None:
    shown = short_names(paths)
    assert len(shown) == len(paths)
    assert not any(name.startswith("/") or ".." in name.split("/") for name in shown)
    ends = {tuple(part for part in path.split("/") if part not in ("", ".", "..")) for path in paths}
    assert len(set(shown)) == len(ends)


def test_folders_of_one_name_are_told_apart() -> None:
    assert short_names(("/x/a/set", "/x/b/set")) == ("a/set", "b/set")
    assert short_names(("/x/euro/train", "/y/set0")) == ("euro/train", "set0")


@given(st.floats(0, 100), st.floats(0, 100))
def test_ticks_hold_the_values_between_them(one: float, other: float) -> None:
    low, high = sorted((one, other))
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 7
    assert 0 <= ticks[0] <= low
    assert high <= ticks[-1] <= 100


# -- the command


def test_the_command_prints_one_object(tmp_path: Path, process_environment: dict[str, str]) -> None:
    write_json(tmp_path / "result.json", evaluation().to_dict())
    done = dpd(["report", "result.json", "--out", "r.html", "--json"], process_environment, tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["out"] == "r.html"
    assert told["bytes"] == (tmp_path / "r.html").stat().st_size
    assert told["sections"][0] == "verdict"


def test_the_templates_are_in_the_package() -> None:
    names = {entry.name for entry in (resources.files("dpd_eval") / "templates").iterdir()}
    assert {"page.html", "style.html", "verdict.html"} <= names
    assert all(name.endswith(".html") for name in names)  # what package-data lists
