"""What an audit found and its verdict in plain words: what is open, why it is not PASS, what usually helps.

Loads no PyTorch: the report has these words too.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from dpd_eval.audit.outcome import COMPARABLE, WOULD_TELL, Control, Outcome
from dpd_runtime.text import counted

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
        "membership of the teacher",
        "The teacher's answers tell who was in its training.",
        "--codes-only leaves it out; or fewer --teacher-steps",
    ),
    _Family(
        "membership of the latent classifier",
        "The latent classifier's answers tell who was in its training.",
        "--codes-only leaves it out; or fewer --latent-classifier-steps",
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
