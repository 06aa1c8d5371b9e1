"""The outcome of a test: a value, its interval, the limit and a verdict (docs/reference/privacy.md)."""

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from dpd_eval.records import parse_json, read_file
from dpd_eval.sets import Set
from dpd_runtime.bundle import Bundle, load_bundle
from dpd_runtime.errors import AuditError, InputError
from dpd_runtime.files import dumps, write_atomically
from dpd_runtime.html import html_table
from dpd_runtime.manifest import AUDIT_NAME
from dpd_runtime.sealing import write_audited
from dpd_runtime.text import counted
from dpd_train.records import convert
from dpd_train.run import Run, open_run
from dpd_train.scenes import Scenes

Verdict = Literal["PASS", "WARN", "FAIL", "NOT RUN"]
Ends = tuple[float, float]


TEACHER_TESTS = "membership of the teacher"
"""How the names of those tests begin that ask whether the teacher's answers tell who was in its training."""
COMPARABLE = "comparable hold-out"
"""The test on which all others rest that compare with H."""
WOULD_TELL = "images of H would tell"  # ends its note where it stays open
FEWEST_IMAGES = 500  # with fewer tested images, or fewer in the hold-out, a WARN is to be expected
MOST_TIMES = 20  # more images are not worth naming: the score is then as good as at the limit
ONE_IN = 20  # copies among innocent images that a test's power is stated for


@dataclass(frozen=True)
class Power:
    """What a test would score if images were copies of T.

    Args:
        all_copied: if every image were one. few_copied: if one in twenty were. most_copied: the largest share of copies
            that the test's interval does not exclude.
    """

    all_copied: float
    few_copied: float
    most_copied: float


def power(all_copied: float, innocent: float, interval: Ends) -> Power:
    """The power of a test that scores `innocent` without copies, and so much if every image is one."""
    reach = all_copied - innocent
    most = 1.0 if reach <= 0 else min(1.0, max(0.0, (interval[1] - innocent) / reach))
    return Power(all_copied, innocent + reach / ONE_IN, most)


@dataclass(frozen=True)
class FewHeld:
    """A test that is open because H is small.

    Args:
        times: as many images of H as this would do, by the test's own rule; None where the rule names no number.
    """

    times: float | None = None


@dataclass(frozen=True)
class Outcome:
    """One test. It becomes part of the bundle, so `note` contains nothing about a single real image.

    Args:
        name: of the test. value: the score; None for a test that did not run.
        interval: 95 %, from the bootstrap. threshold: the limit above which the test fails.
        verdict: by the interval and the limit. note: what a reader should know.
        power: where the test compares images.
        few: where H decides nothing as it is small; not stored.
    """

    name: str
    value: float | None
    interval: Ends | None
    threshold: float | None
    verdict: Verdict
    note: str = ""
    power: Power | None = None
    few: FewHeld | None = None

    def to_dict(self) -> dict[str, Any]:
        """Convert for JSON; `power` and `note` are left out where there is none."""
        fields: dict[str, Any] = _rounded({key: value for key, value in asdict(self).items() if key != "few"})
        return {key: value for key, value in fields.items() if value or key not in ("power", "note")}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list | tuple) else value


def decide(
    name: str,
    value: float,
    interval: Ends,
    limit: float,
    *,
    harmless: float | None = None,
    note: str = "",
    power: Power | None = None,
    of_held: bool = False,
) -> Outcome:
    """Return FAIL if the whole interval is above the limit, PASS if none of it is above `harmless`, otherwise WARN.

    So a PASS excludes a score above that limit (a test of equivalence), and not only finds none.

    Args:
        harmless: a lower limit; None takes `limit`.
        of_held: whether the interval is as wide as it is because H is small, so that more images of H would narrow it.
    """
    goal = limit if harmless is None else harmless
    if interval[0] > limit:
        return Outcome(name, value, interval, limit, "FAIL", note, power)
    if interval[1] <= goal:
        return Outcome(name, value, interval, limit, "PASS", note, power)
    times = None
    if value < goal:
        would = ((interval[1] - value) / (goal - value)) ** 2  # an interval's width falls with the root of the number
        if would <= MOST_TIMES:
            times, note = would, f"{note}; about {would:.1f} times as many images would decide".removeprefix("; ")
    return Outcome(name, value, interval, limit, "WARN", note, power, FewHeld(times) if of_held else None)


def not_run(name: str, reason: str, few: FewHeld | None = None) -> Outcome:
    """Return the outcome of a test that could not run; the verdict of the audit is then at best WARN."""
    return Outcome(name, None, None, None, "NOT RUN", reason, few=few)


def is_wrong(verdict: str, expected: str) -> bool:
    """Whether a control shows that the audit cannot be trusted.

    A WARN of a control that must PASS is undecided: its interval holds the limit, as is likely with few images. A WARN
    of one that must FAIL is wrong: the test does not see what it is made to see.
    """
    undecided = (verdict, expected) == ("WARN", "PASS")
    return verdict not in (expected, "NOT RUN") and not undecided


@dataclass(frozen=True)
class Control(Outcome):
    """A case with a known verdict.

    Args:
        verdict: the observed one. expected: the known one. note: begins with it.
    """

    expected: Literal["PASS", "FAIL"] = "PASS"

    @property
    def wrong(self) -> bool:
        return is_wrong(self.verdict, self.expected)


def control(outcome: Outcome, expected: Literal["PASS", "FAIL"]) -> Control:
    said = f"must {expected}"
    if is_wrong(outcome.verdict, expected):
        said += ", but does not"
    elif outcome.verdict == "WARN":
        said += ", undecided: its interval holds the limit"
    note = f"{said}; {outcome.note}" if outcome.note else said
    return Control(**{**vars(outcome), "note": note}, expected=expected)


def overall(tests: Sequence[Outcome], controls: Sequence[Control]) -> Literal["PASS", "WARN", "FAIL"]:
    """Return FAIL if a test fails or a control is wrong, WARN if anything warns or did not run, otherwise PASS."""
    verdicts = [test.verdict for test in tests]
    if "FAIL" in verdicts or any(one.wrong for one in controls):
        return "FAIL"
    plain = set(verdicts) == {"PASS"} and bool(controls)
    return "PASS" if plain and all(one.verdict == one.expected for one in controls) else "WARN"


# -- An audit: what `dpd audit` finds, stores as audit.json and `dpd report` reads again.


@dataclass(frozen=True)
class Audited:
    """What was audited.

    Args:
        name: of the bundle, run or set. kind: bundle, run or set. bundle_hash: before the audit became a part of it.
    """

    name: str = ""
    kind: str = ""
    bundle_hash: str | None = None


@dataclass(frozen=True)
class ComparedImages:
    """The real images. No `--groups`, which tells what files are called, and no hash of a data card, which may say it.

    Args:
        train_images, holdout_images: numbers of images in T and H.
        fingerprint: sha256 of the sorted content hashes of T.
        val_per_class, split: how T was told from its validation part.
    """

    train_images: int
    holdout_images: int
    fingerprint: str
    val_per_class: int | None = None
    split: str | None = None


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Result of an audit. It has no paths and nothing about a single real image.

    Args:
        verdict: of all tests and controls.
        summary: what was found and what is undecided, in sentences for a newcomer.
        reasons: why the verdict is not PASS, in plain words; the most important first.
        tests: in their order. controls: cases whose verdict is known, which show that the tests see.
        notes: remarks on the data that a reader of the tests needs.
        audited: what was audited. data: the real images that it was compared with.
        images, seed: how many images were judged, and the seed of those that a bundle generated.
        encoder, extractor, further_extractor: descriptions of the networks that were used.
        config: the options that repeat the audit, by `dpd audit SUBJECT --train DATA --config audit.json`. Those that
            would say something of the files are withheld, as the record leaves with the bundle.
        versions: of the packages. seconds: wall time of the audit.
        private: folder with pictures and findings for the owner of the data; not stored.
    """

    verdict: Literal["PASS", "WARN", "FAIL"]
    summary: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    tests: tuple[Outcome, ...]
    controls: tuple[Control, ...]
    notes: tuple[str, ...] = ()
    audited: Audited = Audited()
    images: int | None = None
    seed: int | None = None
    data: ComparedImages | None = None
    encoder: str | None = None
    extractor: str | None = None
    further_extractor: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    seconds: float | None = None
    config: dict[str, Any] | None = None
    private: Path | None = None

    def _repr_html_(self) -> str:
        """The verdict with its reasons, and the tests, for notebooks."""
        rows = [
            (
                test.name,
                *("" if number is None else f"{number:.3f}" for number in (test.value, test.threshold)),
                test.verdict,
            )
            for test in self.tests
        ]
        said = [*self.summary, *self.reasons]
        return html_table(f"Audit: {self.verdict}", ("test", "value", "limit", "verdict"), rows, said)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of audit.json."""
        content = {key: value for key, value in asdict(self).items() if key != "private"}
        content |= {"tests": [test.to_dict() for test in self.tests]}
        content |= {"controls": [control.to_dict() for control in self.controls]}
        return content if self.further_extractor else {k: v for k, v in content.items() if k != "further_extractor"}


def read_audit(path: Path) -> Audit:
    """Read audit.json of a run or a distillation.

    Raises:
        InputError: it cannot be read, or was written by another version.
    """
    return convert(parse_json(read_file(path), str(path)), Audit, str(path))


def write_record(result: Audit, audited: Bundle | Run | Set | Scenes | Path, out: Path | None) -> dict[str, str]:
    """Write audit.json into a run, or write a copy of a bundle that includes it to `out`.

    Args:
        audited: what was audited, or its place.

    Returns:
        What was written: {"audit": path}, or {"out": path, "bundle_hash": hash}; empty if nothing was.

    Raises:
        InputError: the bundle is not the one that was audited.
        BundleHashError: it was changed on the disk after it was opened.
    """
    if isinstance(audited, Path) and result.audited.kind != "set":
        audited = open_run(audited) if result.audited.kind == "run" else load_bundle(audited, allow_older=True)
    if isinstance(audited, Run):
        path = audited.path / AUDIT_NAME
        write_atomically(path, dumps(result.to_dict()))
        return {"audit": str(path)}
    if out is None or not isinstance(audited, Bundle):
        return {}
    if audited.hash != result.audited.bundle_hash:
        raise InputError(f"{audited.path}: is not the bundle that was audited; audit it again")
    return {"out": str(out), "bundle_hash": write_audited(audited, out, result.to_dict(), result.verdict)}


def check_verdict(result: Audit) -> None:
    """Raise an error if the audit failed.

    Raises:
        AuditError: the verdict is FAIL.
    """
    if result.verdict != "FAIL":
        return
    failed = [test.name for test in result.tests if test.verdict == "FAIL"]
    raise AuditError(failed, [control.name for control in result.controls if control.wrong])


# -- What an audit found and its verdict in plain words: what is open, why it is not PASS, what usually helps.
#
# Loads no PyTorch: the report has these words too.


WORDS = {
    "T": "the training images",
    "H": "the hold-out",
    "H1": "the hold-out's first half",
    "H2": "the hold-out's second half",
}
LEGEND = (
    "T: the training images. H: the hold-out, of which H1 and H2 are random halves. AUC: how well T is told from H, "
    "where 0.5 is chance. TPR at 1 % FPR: the share of T that is told where one in a hundred of H is taken for T."
)
"""The letters in names and notes of tests, for whoever shows them."""
A_CONTROL = "A control is a case whose answer is known."
OPEN = "The interval holds the limit: these images are too few to decide."
CONTROL = "A case whose verdict is known came out otherwise, so this audit proves nothing."
MORE_IMAGES = "give a hold-out of more images: --holdout, or a larger --val-per-class before the training"


@dataclass(frozen=True)
class _Family:
    """Tests whose names begin with `begin`: what a finding means, and what usually helps.

    warns: whether a WARN is such a finding. Other tests' WARN says that too few images were there to decide.
    open: what a WARN means that more images of H would not decide.
    """

    begin: str
    meaning: str
    helps: str
    warns: bool = False
    open: str = OPEN


FAMILIES = (
    _Family(
        COMPARABLE,
        "The hold-out can be told from the training images by what it shows, so no test that compares the two says "
        "anything about a memory.",
        "audit beside images of the same kind, drawn at random (--holdout), or train with the validation part that "
        "content decides (--split content, without --groups)",
        warns=True,
    ),
    _Family(
        "near duplicates",
        "Images show what a training image shows, almost point by point.",
        "look at the pairs in the private folder; fewer --steps; no --keep-near-duplicates; more images in each code",
        open="Some images show what a training image shows, but so do images of the hold-out.",
    ),
    _Family(
        "replication, decoded",
        "More prototypes lie close to a training image than hold-out images do.",
        "--prototypes matched, or fewer codes (--ipc)",
    ),
    _Family(
        "replication",
        "More images lie close to a training image than hold-out images do.",
        "look at the pairs in the private folder; fewer --steps; no --keep-near-duplicates",
    ),
    _Family(
        "nearer",
        "The nearest real image is a training image more often than it is for hold-out images.",
        "more images of each class; fewer codes (--ipc); where the bundle also samples, fewer --steps or --codes-only",
    ),
    _Family(
        "artefact",
        "A file holds a name, a place, a picture, or the pixels or latents of a real image.",
        "see artefacts.txt in the private folder, and make the file anew",
        open="Latents of real images were not looked for, as there is no encoder: give --run RUN.",
    ),
    _Family(
        TEACHER_TESTS,
        "The teacher's answers tell who was in its training.",
        "--codes-only leaves it out; or give it fewer steps, --set teacher_steps=N",
    ),
    _Family(
        "membership of the latent classifier",
        "The latent classifier's answers tell who was in its training.",
        "--codes-only leaves it out; or give it fewer steps, --set latent_classifier_steps=N",
    ),
    _Family(
        "membership of the VAE",
        "The decoder shows training images better than others.",
        "--no-tune-vae, or more images",
    ),
    _Family(
        "membership of the prototypes",
        "The prototypes resemble training images more than others.",
        "--prototypes matched, fewer codes (--ipc), a larger --k-min",
    ),
    _Family(
        "membership of the students",
        "Classifiers that are trained on the images tell who was in the training.",
        "fewer images per class, or codes of more images each",
        open="It would pass copies of training images too: give more images of a class, here and in the hold-out.",
    ),
    _Family(
        "membership",
        "The denoiser's errors tell who was in its training.",
        "--codes-only leaves it out; or fewer --steps",
    ),
    _Family("number of images", "Too few images were judged.", "a larger --images, or a larger set", warns=True),
    _Family(
        "training data",
        "--train does not hold exactly the images that were trained on.",
        "give --train, --val-per-class, --split and --groups of the training",
        warns=True,
    ),
)


def summary(tests: Sequence[Outcome], controls: Sequence[Control], held: int | None) -> tuple[str, ...]:
    """What an audit found and what it left open, in sentences that need no knowledge of its tests.

    Args:
        held: images of H; None if unknown.
    """
    failed = [test for test in tests if test.verdict == "FAIL"]
    lines = []
    if wrong := [control for control in controls if control.wrong]:
        told = f"{len(wrong)} of {counted(len(controls), 'control')} came out otherwise than it must"
        lines.append(f"Proved: nothing, as {told}. {A_CONTROL}")
    if failed:
        meanings = dict.fromkeys(family.meaning for test in failed if (family := family_of(test.name)))
        found = " ".join(meanings) or f"{failed[0].name}{_others(failed)}."
        lines.append(f"Found by {len(failed)} of {counted(len(tests), 'test')}: {found}")
    elif not wrong:
        lines.append("Found: nothing.")
    still = [test for test in tests if test.verdict in ("WARN", "NOT RUN")]
    if few := [test for test in still if test.few is not None]:
        lines.append(f"Undecided: {len(few)} of {counted(len(tests), 'test')}, {_too_few(few, held)}.")
    causes: dict[str, int] = {}
    for test in still:
        if test.few is None:
            causes[_cause(test)] = causes.get(_cause(test), 0) + 1
    lines += [f"Undecided: {number} of {counted(len(tests), 'test')}. {cause}" for cause, number in causes.items()]
    if unclear := [c for c in controls if not c.wrong and c.verdict != c.expected]:
        told = f"{len(unclear)} of {counted(len(controls), 'control')}"
        lines.append(f"Undecided: {told}. {A_CONTROL}")
    return tuple(lines) if still or unclear or wrong else (*lines, "Undecided: nothing that this audit measures.")


def _too_few(few: Sequence[Outcome], held: int | None) -> str:
    """Why tests are open that H is too small for, and the number that would do by the rules of those that name one."""
    have = "as the hold-out is small" if held is None else f"as the hold-out has {counted(held, 'image')}"
    known = [test.few.times for test in few if test.few is not None and test.few.times is not None]
    if held is None or not known:
        return f"{have}; how many would do is open"
    would = f"{have}; about {math.ceil(held * max(known) - 1e-6)} would do"
    rest = len(few) - len(known)
    return f"{would} for {len(known)} of them, and for {rest} the number is open" if rest else would


def _cause(test: Outcome) -> str:
    """Why a test is open that more images of H would not decide, in a sentence."""
    if test.verdict == "NOT RUN":
        said = in_words(test.note) or "it did not run"
        return f"{said[0].upper()}{said[1:]}."
    family = family_of(test.name)
    if family is None:
        return OPEN
    return family.meaning if family.warns and not test.note.endswith(WOULD_TELL) else family.open


def in_words(text: str) -> str:
    """`text` with T, H, H1 and H2 written out."""
    return re.sub(r"\b(T|H[12]?)\b", lambda letter: WORDS[letter[0]], text)


def numbered_notes(tests: Sequence[Outcome]) -> tuple[list[str], list[str]]:
    """The notes of tests, each once, and for each test the numbers of its own: `1, 4`.

    A note has parts, between semicolons. Many tests share some of them.
    """
    parts = [[part for part in test.note.split("; ") if part] for test in tests]
    each = dict.fromkeys(part for own in parts for part in own)
    numbers = {part: number for number, part in enumerate(each, start=1)}
    return list(numbers), [", ".join(str(numbers[part]) for part in dict.fromkeys(own)) for own in parts]


def reasons(tests: Sequence[Outcome], controls: Sequence[Control]) -> tuple[str, ...]:
    """Why the verdict is not PASS: one line for each family of tests, the worst first; empty for a PASS.

    Tests that did not run share a line if they share the reason.
    """
    lines: dict[str, str] = {}
    for verdict in ("FAIL", "WARN"):
        for family in FAMILIES:
            those = [test for test in tests if test.verdict == verdict and family_of(test.name) is family]
            if those and family.begin not in lines:
                lines[family.begin] = _line(verdict, family, those)
    missing: dict[str, list[str]] = {}
    for test in tests:
        if test.verdict == "NOT RUN":
            missing.setdefault(test.note, []).append(test.name)
    all_lines = [*lines.values(), *(f"NOT RUN: {', '.join(names)}: {note}." for note, names in missing.items())]
    wrong = [control.name for control in controls if control.wrong]
    if wrong:
        all_lines.insert(
            0, f"FAIL of {counted(len(wrong), 'control')} ({wrong[0]}): {CONTROL} What usually helps: {MORE_IMAGES}."
        )
    undecided = [c.name for c in controls if not c.wrong and c.verdict != c.expected]
    if undecided:
        all_lines.append(
            f"WARN of {counted(len(undecided), 'control')} ({undecided[0]}): undecided, or not run. "
            f"What usually helps: {MORE_IMAGES}."
        )
    return tuple(all_lines)


def family_of(name: str) -> _Family | None:
    return next((family for family in FAMILIES if name.startswith(family.begin)), None)


def _line(verdict: str, family: _Family, tests: Sequence[Outcome]) -> str:
    if verdict == "FAIL" or (family.warns and not tests[0].note.endswith(WOULD_TELL)):
        return f"{verdict} of {tests[0].name}{_others(tests)}: {family.meaning} What usually helps: {family.helps}."
    return f"{verdict} of {tests[0].name}{_others(tests)}: {tests[0].note or 'these images do not decide it'}."


def _others(tests: Sequence[Outcome]) -> str:
    return f" and {len(tests) - 1} more" if len(tests) > 1 else ""
