"""Tables of audits, timings, bundles and runs."""

from collections.abc import Sequence

from dpd_eval.audit.explain import numbered_notes
from dpd_eval.audit.outcome import Outcome
from dpd_eval.comparison.arm_names import FULL_ARM
from dpd_eval.report.audits import NamedAudit, Timings
from dpd_eval.report.evaluations import NamedEvaluation
from dpd_eval.report.models import BundleRecord, RunRecord
from dpd_eval.report.tables import Cell, Table, cells, pairs_table
from dpd_eval.report.wording import duration, plain


def audit_table(audit: NamedAudit, controls: bool) -> Table | None:
    """Make a table of the tests or the controls. Below it stands each note once, as many tests share their notes."""
    entries = audit.controls if controls else audit.tests
    if not entries:
        return None
    caption = "Controls: tests on cases with a known verdict" if controls else f"Tests of {audit.name}"
    columns = ("control" if controls else "test", "value", "95 % interval", "limit", "verdict", "note")
    notes, marks = numbered_notes(entries)
    rows = tuple(_audit_row(entry, mark)[: None if notes else 5] for entry, mark in zip(entries, marks, strict=True))
    shown = columns if notes else columns[:5]
    return Table(caption, shown, rows, text_columns=frozenset({4}), numbered=tuple(notes))


def _audit_row(entry: Outcome, mark: str) -> tuple[Cell, ...]:
    ends = "–" if entry.interval is None else f"{plain(entry.interval[0])} to {plain(entry.interval[1])}"
    verdict = Cell(entry.verdict, entry.verdict.lower() if entry.verdict in ("PASS", "WARN", "FAIL") else "")
    return cells(entry.name, plain(entry.value), ends, plain(entry.threshold), verdict, mark)


def power_table(audit: NamedAudit) -> Table | None:
    """Make a table of what tests would score if images were copies; None where the audit does not say."""
    powers = [(test.name, test.power) for test in audit.tests if test.power is not None]
    rows = tuple(
        cells(name, plain(power.all_copied), plain(power.few_copied), f"{100 * power.most_copied:.0f} %")
        for name, power in powers
    )
    columns = ("test", "all copied", "one in twenty", "copies not excluded")
    return Table("Power: what copies of T would score", columns, rows) if rows else None


def timing_table(evaluations: Sequence[NamedEvaluation]) -> Table | None:
    """Make a table of training times per student and IPC, over all arms."""
    rows = []
    for evaluation in evaluations:
        for setting in evaluation.settings():
            own = [arm for arm in evaluation.arms if arm.setting == setting and arm.oa_runs]
            if own:
                trainings, seconds = sum(len(arm.oa_runs) for arm in own), sum(arm.seconds for arm in own)
                cached = sum(arm.cached for arm in own)
                times = (duration(seconds), duration(seconds / trainings))
                steps = next((arm.steps for arm in own if arm.arm != FULL_ARM), None)
                where = (evaluation.name, setting.student, setting.ipc)
                rows.append(cells(*where, plain(steps), trainings, cached, *times))
    columns = ("evaluation", "student", "IPC", "steps", "trainings", "from cache", "total time", "time per training")
    caption = "Time for training and testing the students on one thread each, including cached trainings"
    return Table(caption, columns, tuple(rows), heads=2) if rows else None


def bench_table(bench: Timings) -> Table:
    rows = tuple(tuple(Cell(plain(row.get(column))) for column in bench.columns) for row in bench.timings)
    texts = {key for row in bench.timings for key, value in row.items() if isinstance(value, str)}
    words = frozenset(i for i, column in enumerate(bench.columns) if column in texts)
    caption = f"Timings: {bench.name}" + (f", on {bench.hardware}" if bench.hardware else "")
    columns = tuple(column.replace("_", " ") for column in bench.columns)
    return Table(caption, columns, rows, text_columns=words)


def bundle_tables(bundle: BundleRecord) -> list[Table]:
    classes = tuple(cells(name, number, bundle.prompts[name]) for name, number in bundle.prototypes.items())
    facts = [(f"difference from PyTorch: {part}", value) for part, value in bundle.parity.items()]
    facts += [(f"data: {name}", value) for name, value in bundle.data.items()]
    facts += [("data: size", bundle.size)] if bundle.size else []
    facts += [(f"licence: {part}", text) for part, text in bundle.licences.items()]
    return [
        Table(
            f"Classes of {bundle.name}, their prototypes and first prompts",
            ("class", "prototypes", "prompt"),
            classes,
            text_columns=frozenset({2}),
        ),
        *([pairs_table(f"Metadata of {bundle.name}", facts)] if facts else []),
    ]


def run_tables(run: RunRecord) -> list[Table]:
    """Make a table of the metrics in run.json, and one of images and prototypes per class."""
    facts: list[tuple[str, object]] = [(name.replace("_", " "), value) for name, value in run.metrics.items()]
    facts += [(f"data: {name.replace('_', ' ')}", value) for name, value in run.data.items() if value is not None]
    facts += [("data: size", run.size)] if run.size else []
    classes = list(dict.fromkeys([*run.images, *run.prototypes]))
    rows = tuple(cells(name, *(plain(counts.get(name)) for counts in (run.images, run.prototypes))) for name in classes)
    shown = [pairs_table(f"Metrics of {run.name}, on validation images", facts)] if facts else []
    if run.noise_levels:
        shown.append(_noise_levels(run))
    if rows:
        shown.append(Table(f"Classes of {run.name}", ("class", "training images", "prototypes"), rows))
    return shown


def _noise_levels(run: RunRecord) -> Table:
    levels = run.noise_levels
    timesteps = dict.fromkeys(timestep for errors in levels.values() for timestep in errors)
    rows = tuple(
        cells(timestep, *(f"{errors[timestep]:.3f}" if timestep in errors else "–" for errors in levels.values()))
        for timestep in timesteps
    )
    return Table(
        f"Squared error of the denoised latents of {run.name} at each noise level, on validation images",
        ("timestep", *(who.replace("_", " ") for who in levels)),
        rows,
        note="The denoiser is worth its steps where its error is below that of a Gaussian with the class's mean and "
        "covariance.",
    )
