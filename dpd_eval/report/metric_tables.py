"""Tables of set metrics, one per extractor, and of the detail of images."""

from collections.abc import Sequence

from dpd_eval.comparison.arm_names import HELD_OUT
from dpd_eval.metrics.detail import SetDetail
from dpd_eval.metrics.set_metrics import SetMetrics
from dpd_eval.report.tables import Cell, Table, cells
from dpd_eval.report.wording import MINUS, percent, plain

METRICS = {
    "kid": ("KID ↓", 4),
    "kid_std": ("± KID", 4),
    "precision": ("precision ↑", 3),
    "recall": ("recall ↑", 3),
    "density": ("density ↑", 3),
    "coverage": ("coverage ↑", 3),
    "mean_max_cosine": ("mean max cosine ↑", 3),
    "intra_class_diversity": ("diversity within class", 3),
    "reference_diversity": ("diversity of real images", 3),
    "teacher_agreement": ("teacher agreement ↑", 3),
}


def metrics_tables(metrics: Sequence[SetMetrics]) -> list[Table]:
    """Make one table per extractor, because values of different extractors are not comparable."""
    tables = []
    for extractor in dict.fromkeys(entry.extractor for entry in metrics):
        own = [entry for entry in metrics if entry.extractor == extractor]
        keys = [key for key in METRICS if any(getattr(entry, key) is not None for entry in own)]
        rows = []
        for entry in own:
            values = [_figure(getattr(entry, key), METRICS[key][1]) for key in keys]
            rows.append(cells(entry.arm, entry.ipc, plain(entry.images), *values))
        heads = (METRICS[key][0] for key in keys)
        caption = f"Set metrics in the features of {extractor or 'an unnamed extractor'}"
        tables.append(Table(caption, ("arm", "IPC", "images", *heads), tuple(rows)))
    return tables


def _figure(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}".replace("-", MINUS)


def agreement_table(metrics: Sequence[SetMetrics]) -> Table | None:
    own = [(entry, entry.per_class_agreement) for entry in metrics if entry.per_class_agreement]
    if not own:
        return None
    names = list(dict.fromkeys(name for _, agreement in own for name in agreement))
    rows = []
    for name in names:
        values = [agreement.get(name) for _, agreement in own]
        rows.append(cells(name, *(Cell("–") if v is None else Cell(percent(v), heat=round(v, 3)) for v in values)))
    columns = ("class", *(f"{entry.arm}, IPC {entry.ipc}" for entry, _ in own))
    return Table("Share of images whose class the teacher confirms", columns, tuple(rows))


def detail_tables(detail: Sequence[SetDetail]) -> list[Table]:
    """Power by octave and fine contrast as shares of the held-out real images', and kurtosis beside theirs."""
    real = next((entry for entry in detail if entry.arm == HELD_OUT), None)
    arms = [entry for entry in detail if entry is not real and real and len(entry.octaves) == len(real.octaves)]
    if real is None or not arms:
        return []
    octaves = [f"{2**i} to {2 ** (i + 1)}" for i in range(len(real.octaves))]
    power = [
        cells(entry.arm, entry.ipc, *(_share(a, b) for a, b in zip(entry.octaves, real.octaves, strict=True)))
        for entry in arms
    ]
    heads = tuple(f"{entry.arm}, IPC {entry.ipc}" for entry in arms)
    contrast = [
        cells(name, *(_share(entry.fine_contrast.get(name), of_real) for entry in arms))
        for name, of_real in real.fine_contrast.items()
    ]
    kurtosis = [
        cells(name, _kurtosis(of_real), *(_kurtosis(entry.kurtosis.get(name)) for entry in arms))
        for name, of_real in real.kurtosis.items()
    ]
    of_real = "÷ that of the held-out real images"
    return [
        Table(f"Power by octave, in cycles an image, {of_real}", ("arm", "IPC", *octaves), tuple(power)),
        Table(f"Fine contrast {of_real}", ("class", *heads), tuple(contrast)),
        Table("Kurtosis of the finest details", ("class", HELD_OUT, *heads), tuple(kurtosis)),
    ]


def _share(value: float | None, of: float) -> str:
    return "–" if value is None or of <= 0 else f"{value / of:.2f}"


def _kurtosis(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
