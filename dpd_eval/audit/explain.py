"""What an audit's verdict means in plain words: why it is not PASS, what usually helps, what to do next."""

from collections.abc import Sequence
from dataclasses import dataclass

from dpd_eval.audit.comparable import NAME as COMPARABLE
from dpd_eval.audit.comparable import WOULD_TELL
from dpd_eval.audit.outcome import Control, Outcome

CONTROL = "A case whose verdict is known came out otherwise, so this audit proves nothing."
MORE_IMAGES = "give a hold-out of more images: --holdout, or a larger --val-per-class before the training"


@dataclass(frozen=True)
class _Family:
    """Tests whose names begin with `begin`: what a finding means, and what usually helps.

    warns: whether a WARN is such a finding. Other tests' WARN says that too few images were there to decide.
    """

    begin: str
    meaning: str
    helps: str
    warns: bool = False


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
        "Classifiers that are trained on the images tell who was in T.",
        "fewer images per class, or codes of more images each",
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
            0, f"FAIL of {_count(len(wrong), 'control')} ({wrong[0]}): {CONTROL} What usually helps: {MORE_IMAGES}."
        )
    undecided = [c.name for c in controls if not c.wrong and c.verdict != c.expected]
    if undecided:
        all_lines.append(
            f"WARN of {_count(len(undecided), 'control')} ({undecided[0]}): undecided, or not run. "
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


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
