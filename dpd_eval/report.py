"""Write the report: read the inputs, render the page, save one HTML file."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from dpd_eval import report_tables as accuracy_tables
from dpd_eval import report_tables as metric_tables
from dpd_eval import report_tables as record_tables
from dpd_eval.report_charts import MARKERS, curves, strip, student_titles, style
from dpd_eval.report_inputs import BundleRecord, Inputs, read_inputs
from dpd_eval.report_provenance import provenance
from dpd_eval.report_records import (
    NamedAudit,
    NamedEvaluation,
    arm_words,
    count,
    duration,
    listed,
    megabytes,
    percent,
    plain,
)
from dpd_eval.report_tables import ablations, setting_words, verdict
from dpd_eval.results import FULL_ARM, SET_ARM, is_taught
from dpd_eval.verdict import LEGEND, Outcome, in_words, summary
from dpd_runtime.errors import DiskError, InputError
from dpd_runtime.files import check_writable, write_atomically
from dpd_runtime.trust import PublicKey


@dataclass(frozen=True)
class Report:
    """What was written. sections: anchors of the page, in order."""

    out: Path
    bytes: int
    sections: tuple[str, ...]


def write_report(paths: Sequence[Path], out: Path, trusted: Sequence[PublicKey] | None = None) -> Report:
    """Read every path and write the page. Equal inputs give equal bytes. Nothing in a run's private/ is opened.

    Args:
        paths: JSON files of evaluations, audits or timings, folders of distilled sets, bundles, run folders.
        out: the HTML file; an existing file is replaced.
        trusted: keys whose signatures of bundles count; None for those in the user's trusted folder.

    Raises:
        InputError: a path that dpd did not write, damaged content, keys without a bundle, an `out` that is a folder or
            one of the inputs.
        BundleError: a bundle that does not verify.
        DiskError: `out` cannot be written.
    """
    if out.is_dir():
        raise InputError(f"--out {out}: is a folder; give the name of an HTML file")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: the folder {out.parent} does not exist; create it first")
    if out.resolve() in [path.resolve() for path in paths]:
        raise InputError(f"--out {out}: is one of the inputs; choose another name")
    check_writable(out)
    page, sections = render(read_inputs(paths, trusted))
    content = page.encode()
    try:
        write_atomically(out, content)
    except OSError as error:
        raise DiskError(f"--out {out}: cannot be written ({error.strerror}); choose another place") from None
    return Report(out, len(content), sections)


# -- The page: its sections with their content, rendered by templates into one HTML file.


FEW = 12  # with at most this many comparisons, all groups are shown open


@dataclass(frozen=True)
class Section:
    """A section. anchor: its id in the page. template: the file that renders `content`."""

    anchor: str
    title: str
    content: Any

    @property
    def template(self) -> str:
        return f"{self.anchor}.html"


def render(inputs: Inputs) -> tuple[str, tuple[str, ...]]:
    """Return the HTML, which is the same for equal inputs, and the anchors of its sections."""
    environment = Environment(
        loader=PackageLoader("dpd_eval", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": percent,
        "duration": duration,
        "plain": plain,
        "megabytes": megabytes,
        "arm_words": arm_words,
    }
    environment.globals |= {"strip": strip, "count": count, "markers": MARKERS}
    sections = [section for section in _sections(inputs) if section.content]
    page = environment.get_template("page.html").render(
        title=title(inputs), sections=sections, version=_own_version(), kinds=_kinds(inputs)
    )
    return page, tuple(section.anchor for section in sections)


def title(inputs: Inputs) -> str:
    """Name the bundle if there is one, or else the first evaluation, set or file."""
    if len(inputs.bundles) == 1:
        return inputs.bundles[0].name
    names = [e.name for e in inputs.evaluations] or [s.name for s in inputs.sets] or [f.name for f in inputs.files]
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _own_version() -> str:
    try:
        return version("dpd-distill")
    except PackageNotFoundError:
        return "unknown"


def _kinds(inputs: Inputs) -> str:
    kinds = [file.kind for file in inputs.files]
    return ", ".join(count(kinds.count(kind), kind) for kind in dict.fromkeys(kinds))


def _sections(inputs: Inputs) -> list[Section]:
    evaluations = inputs.evaluations
    return [
        Section("release", "What may leave", release(inputs)),
        Section("verdict", "Verdict", _verdicts(inputs)),
        Section("images", "Images", inputs.sets),
        Section("curves", "Accuracy by images per class", [_curves(e) for e in evaluations if e.arms]),
        Section("architectures", "Accuracy by architecture", [_architectures(e) for e in evaluations if e.arms]),
        Section("ablation", "Comparison of evaluations", ablations(evaluations)),
        Section("classes", "Accuracy by class", [content for e in evaluations if (content := _classes(e))["settings"]]),
        Section("metrics", "Set metrics", [content for e in evaluations if (content := _metrics(e))["tables"]]),
        Section("audit", "Privacy audit", [_audit(audit) for audit in inputs.audits]),
        Section("models", "Bundles and runs", _models(inputs)),
        Section("timings", "Timings", _timings(inputs)),
        Section("provenance", "Provenance", provenance(inputs)),
    ]


def _verdicts(inputs: Inputs) -> dict[str, Any] | None:
    verdicts = [verdict(evaluation) for evaluation in inputs.evaluations]
    comparisons = sum(len(group.sentences) for v in verdicts for group in v.groups)
    claims = [bundle for bundle in inputs.bundles if bundle.privacy]
    not_audited = unaudited(inputs)
    if not (verdicts or inputs.audits or not_audited or claims):
        return None
    return {
        "verdicts": verdicts,
        "audits": inputs.audits,
        "unaudited": not_audited,
        "claims": claims,
        "open": comparisons <= FEW,
        "legend": LEGEND,
    }


def _curves(evaluation: NamedEvaluation) -> dict[str, Any]:
    arms = evaluation.arm_names()
    return {
        "name": evaluation.name,
        "legend": [(arm_words(name), style(name, arms), name == FULL_ARM) for name in arms],
        "charts": [curves(evaluation, *key) for key in student_titles(evaluation)],
    }


def _architectures(evaluation: NamedEvaluation) -> dict[str, Any]:
    more = (accuracy_tables.ranking_table(evaluation), accuracy_tables.student_sizes(evaluation))
    return {
        "name": evaluation.name,
        "tables": [*accuracy_tables.architectures(evaluation), *(table for table in more if table is not None)],
        "everything": accuracy_tables.everything(evaluation),
    }


def _classes(evaluation: NamedEvaluation) -> dict[str, Any]:
    """Show confusion matrices of the set and of the first baseline only; the JSON has all of them."""
    shown = []
    for setting in evaluation.settings():
        arms = [arm for arm in evaluation.arms if arm.setting == setting]
        baselines = [arm for arm in arms if arm.arm != SET_ARM and not is_taught(arm.arm)]
        judged = [arm for arm in arms if arm.arm == SET_ARM][:1] + baselines[:1]
        matrices = [accuracy_tables.confusion_table(arm, evaluation.classes) for arm in judged]
        tables = [table for table in (accuracy_tables.class_table(evaluation, setting), *matrices) if table]
        if tables:
            words = setting_words(setting).removeprefix("at ")
            shown.append((words, tables))
    return {"name": evaluation.name, "settings": shown}


def _metrics(evaluation: NamedEvaluation) -> dict[str, Any]:
    tables = metric_tables.metrics_tables(evaluation.metrics)
    agreement = metric_tables.agreement_table(evaluation.metrics)
    detail = metric_tables.detail_tables(evaluation.detail)
    return {"name": evaluation.name, "tables": tables, "agreement": agreement, "detail": detail}


def _audit(audit: NamedAudit) -> dict[str, Any]:
    tables = [record_tables.audit_table(audit, controls) for controls in (False, True)]
    tables.append(record_tables.power_table(audit))
    found = audit.summary or summary(audit.tests, audit.controls, None)  # records of 0.2.0 have no summary
    return {"audit": audit, "summary": found, "legend": LEGEND, "tables": [table for table in tables if table]}


def _models(inputs: Inputs) -> dict[str, Any] | None:
    bundles = [(bundle, record_tables.bundle_tables(bundle)) for bundle in inputs.bundles]
    runs = [(run, record_tables.run_tables(run)) for run in inputs.runs]
    return {"bundles": bundles, "runs": runs} if bundles or runs else None


def _timings(inputs: Inputs) -> dict[str, Any] | None:
    trained = record_tables.timing_table(inputs.evaluations)
    shown = [*([trained] if trained else []), *map(record_tables.bench_table, inputs.benches)]
    totals = [(e.name, e.seconds) for e in inputs.evaluations]
    runs = [(r.name, r.seconds) for r in inputs.runs if r.seconds is not None]
    return {"tables": shown, "evaluations": totals, "runs": runs} if shown or totals or runs else None


# -- Three sentences for the person who releases: what may leave, what may not, and what nobody has decided.


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
    # a run holds real images, whatever its verdict
    leaving = [audit for audit in others if audit.audited.kind != "run"]
    verdicts += [(_subject(audit, alone=named[audit.audited.name] == 1), audit.verdict) for audit in leaving]

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
