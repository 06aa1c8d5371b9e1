"""The page: its sections with their content, rendered by templates into one HTML file."""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from dpd_eval.audit.explain import LEGEND, summary
from dpd_eval.comparison.arm_names import FULL_ARM, SET_ARM
from dpd_eval.report import accuracy_tables, metric_tables, record_tables
from dpd_eval.report.ablation import ablations
from dpd_eval.report.audits import NamedAudit
from dpd_eval.report.charts import MARKERS, curves, strip, student_titles, style
from dpd_eval.report.evaluations import NamedEvaluation
from dpd_eval.report.inputs import Inputs
from dpd_eval.report.provenance import provenance
from dpd_eval.report.release import release, unaudited
from dpd_eval.report.verdicts import setting_words, verdict
from dpd_eval.report.wording import arm_words, count, duration, megabytes, percent, plain

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
        loader=PackageLoader("dpd_eval.report", "templates"),
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
    sizes = accuracy_tables.student_sizes(evaluation)
    return {
        "name": evaluation.name,
        "tables": [*accuracy_tables.architectures(evaluation), *([sizes] if sizes else [])],
        "everything": accuracy_tables.everything(evaluation),
    }


def _classes(evaluation: NamedEvaluation) -> dict[str, Any]:
    """Show confusion matrices of the set and of the first baseline only; the JSON has all of them."""
    shown = []
    for setting in evaluation.settings():
        arms = [arm for arm in evaluation.arms if arm.setting == setting]
        judged = [arm for arm in arms if arm.arm == SET_ARM][:1] + [arm for arm in arms if arm.arm != SET_ARM][:1]
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
