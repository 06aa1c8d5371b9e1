"""Three sentences for the person who releases: what may leave, what may not, and what nobody has decided."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from dpd_eval.audit.explain import in_words
from dpd_eval.audit.outcome import Outcome
from dpd_eval.report.audits import NamedAudit
from dpd_eval.report.inputs import Inputs
from dpd_eval.report.models import BundleRecord
from dpd_eval.report.wording import count, listed

NAMED = 3  # tests and controls that a sentence names
PRIVATE = "the training images, run folders, their private/ folders and every cache"


@dataclass(frozen=True)
class Release:
    may: str
    may_not: str
    undecided: str


def release(inputs: Inputs) -> Release | None:
    """The sentences on the bundles and audits of a report; None if there is neither, nor a set."""
    bundles, sets = inputs.bundles, inputs.sets
    if not (bundles or inputs.audits or sets):
        return None
    by_bundle = {bundle.name: bundle.audit_record for bundle in bundles}
    others = [audit for audit in inputs.audits if audit not in by_bundle.values()]
    verdicts = [(_claimed(b.name, b.audit_record), b.audit) for b in bundles if not b.privacy]
    named = Counter([bundle.name for bundle in bundles] + [audit.audited.name for audit in others])
    verdicts += [(_subject(audit, alone=named[audit.audited.name] == 1), audit.verdict) for audit in others]

    def judged(verdict: str) -> list[str]:
        return [name for name, own in verdicts if own == verdict]

    return Release(
        may=_may(judged("PASS"), judged("WARN"), [bundle for bundle in bundles if bundle.privacy]),
        may_not=_may_not(judged("FAIL"), unaudited(inputs), [s.name for s in sets if s.real_images]),
        undecided=_undecided([audit for audit in by_bundle.values() if audit is not None] + others),
    )


def _subject(audit: NamedAudit, *, alone: bool) -> str:
    """What an audit is about. Where several things have one name, the name of the audit tells them apart."""
    name = audit.audited.name
    return _claimed(name if name and alone else f"{name} ({audit.name})" if name else audit.name, audit)


def _claimed(name: str, audit: NamedAudit | None) -> str:
    return f"{name} (as the bundle claims)" if audit is not None and audit.claimed else name


def unaudited(inputs: Inputs) -> list[str]:
    """Names of sets and bundles that no audit and no claim of a report is about. Real images are not among them."""
    claimed = {bundle.hash for bundle in inputs.bundles if bundle.privacy}
    known = {audit.audited.bundle_hash for audit in inputs.audits} | claimed
    sets = [s for s in inputs.sets if s.audit == "unaudited" and s.bundle_hash not in known and not s.real_images]
    bundles = [b for b in inputs.bundles if b.audit == "unaudited" and b.audit_record is None and not b.privacy]
    return [s.name for s in sets] + [b.name for b in bundles]


def _may(passed: list[str], warned: list[str], claimed: Sequence[BundleRecord]) -> str:
    parts = []
    if passed:
        parts.append(f"{listed(passed)}, as every test of the audit passed")
    if warned:
        parts.append(f"{listed(warned)}, if you accept what is undecided, as no test of the audit failed")
    if claimed:
        parts.append(f"{listed([bundle.name for bundle in claimed])}, as differential privacy is claimed for it")
    if not parts:
        return "Nothing that this report shows may leave."
    made = " Sets that are generated from a bundle may go wherever the bundle may."
    return f"These may leave: {'; '.join(parts)}.{made}"


def _may_not(failed: list[str], unaudited: list[str], real: list[str]) -> str:
    parts = [PRIVATE]
    if failed:
        parts.append(f"{listed(failed)}, whose audit failed")
    if unaudited:
        parts.append(f"{listed(unaudited)}, which nobody has audited")
    if real:
        parts.append(f"{listed(real)}, which holds real images")
    return f"These may not leave: {'; '.join(parts)}."


def _passes_copies(test: Outcome) -> bool:
    """Whether a set of nothing but copies would stay within the test's limit."""
    return test.power is not None and test.threshold is not None and test.power.all_copied <= test.threshold


def _undecided(audits: Sequence[NamedAudit]) -> str:
    if not audits:
        return "Everything is undecided: there is no audit."
    open_tests = [test.name for audit in audits for test in audit.tests if test.verdict == "WARN"]
    blind = [test.name for audit in audits for test in audit.tests if test.verdict == "PASS" and _passes_copies(test)]
    not_run = [test.name for audit in audits for test in audit.tests if test.verdict == "NOT RUN"]
    controls = [control for audit in audits for control in audit.controls if control.verdict != control.expected]
    wrong = [control.name for control in controls if control.wrong]
    imprecise = [control.name for control in controls if not control.wrong]
    parts = []
    for names, one, many in (
        (open_tests, "test did not decide", "tests did not decide"),
        (blind, "test would pass copies of training images too", "tests would pass copies of training images too"),
        (not_run, "test did not run", "tests did not run"),
        (wrong, "control came out otherwise than it must", "controls came out otherwise than they must"),
        (imprecise, "control was too imprecise to decide", "controls were too imprecise to decide"),
    ):
        if names:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            parts.append(f"{count(len(names), one, many)} ({'; '.join(map(in_words, names[:NAMED]))}{more})")
    if not parts:
        return "The audit left nothing undecided that it can measure. A PASS is a measurement, not a proof."
    first = next((reason for audit in audits for reason in audit.reasons), "")
    return f"Undecided: {'. '.join(parts)}.{f' {first}' if first else ''}"
