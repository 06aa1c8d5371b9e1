"""Read an evaluation from JSON: the output of `dpd evaluate --out`, or a committed result that contains one."""

from collections.abc import Mapping

from dpd_eval.comparison.arm_names import SET_ARM
from dpd_eval.metrics.detail import SetDetail
from dpd_eval.report.evaluations import Arm, EvaluationRecord, Gap, GoalRecord, Metrics, Setting
from dpd_eval.report.names import PARTS, hide_all_paths, hide_paths, short_name, short_names
from dpd_eval.report.reading import Node
from dpd_eval.statistics import Interval


def looks_like_evaluation(content: object) -> bool:
    return isinstance(content, dict) and isinstance(content.get("arms"), list) and "classes" in content


def read_evaluation(node: Node, name: str, context: tuple[tuple[str, str], ...] = ()) -> EvaluationRecord:
    """Read an evaluation.

    Raises:
        InputError: a value that is missing or of the wrong type, naming it.
    """
    labels = node.text("labels", "hard")
    sets = node.raw_texts("sets")
    short_sets = short_names(sets) if sets else ()
    known = dict(zip((*sets, node.raw_text("train"), node.raw_text("test")), (*short_sets, "", ""), strict=True))
    known = {path: short or short_name(path) for path, short in known.items() if path}
    test = node.raw_text("test")
    recipe = node.child("recipe")
    students = node.child("students")
    reading = node.child("reading")
    names = tuple(students.content) if students else ()
    return EvaluationRecord(
        name=name,
        sets=short_sets,
        train=known.get(node.raw_text("train"), ""),
        test=test if test in PARTS else known.get(test, ""),
        test_part=node.text("test_part"),
        classes=node.texts("classes"),
        train_images=node.maybe_whole("train_images"),
        test_images=node.maybe_whole("test_images"),
        resolution=node.maybe_whole("resolution"),
        reading={} if reading is None else hide_all_paths(reading.content),
        val_per_class=node.maybe_whole("val_per_class"),
        split=node.text("split") or "names",
        groups=node.text("groups"),
        recipe={} if recipe is None else hide_all_paths(recipe.content),
        teacher=node.text("teacher"),
        extractor=node.text("extractor"),
        students={hide_paths(key): students.numbers_by_name(key) for key in names} if students else {},
        arms=tuple(_arm(item, labels) for item in node.children("arms")),
        repeated="bundles" if node.text("repeated") == "bundles" else "pairs",
        gaps=tuple(_gap(item, labels) for item in node.children("differences")),
        goals=tuple(_goal(item, labels) for item in node.children("verdicts")),
        metrics=tuple(_metrics(item) for item in node.children("metrics")),
        detail=tuple(_detail(item) for item in node.children("detail")),
        notes=tuple(hide_paths(_replace(note, known)) for note in node.raw_texts("notes")),
        fingerprints=node.texts_by_name("fingerprints"),
        versions=node.texts_by_name("versions"),
        seconds=node.maybe_number("seconds"),
        context=context,
    )


def _setting(node: Node, labels: str) -> Setting:
    ipc = node.whole("ipc")
    if ipc < 1:
        raise node.wrong("ipc", "at least 1")
    return Setting(node.text("labels", labels), node.text("student"), ipc)


def _arm(node: Node, labels: str) -> Arm:
    return Arm(
        name=node.text("arm"),
        setting=_setting(node, labels),
        images=node.maybe_whole("images"),
        steps=node.maybe_whole("steps"),
        oa_mean=node.share("oa_mean"),
        oa_std=node.maybe_number("oa_std"),
        oa_runs=node.shares("oa_runs"),
        aa=node.maybe_number("aa"),
        kappa=node.maybe_number("kappa"),
        class_accuracy=node.shares_by_name("class_accuracy"),
        confusion=node.matrix("confusion"),
        seeds=node.wholes("seeds"),
        cached=node.maybe_whole("cached"),
        seconds=node.maybe_number("seconds"),
    )


def read_interval(node: Node, key: str) -> Interval:
    found = node.child(key)
    if found is None:
        raise node.wrong(key, "an interval")
    return Interval(found.number("mean"), found.maybe_number("low"), found.maybe_number("high"), found.whole("n"))


def _gap(node: Node, labels: str) -> Gap:
    return Gap(
        arm=node.text("arm"),
        reference=node.text("reference"),
        setting=_setting(node, labels),
        interval=read_interval(node, "difference"),
        ratio=node.maybe_number("ratio"),
    )


def _goal(node: Node, labels: str) -> GoalRecord:
    return GoalRecord(
        arm=node.text("arm", SET_ARM),
        reference=node.text("reference"),
        setting=_setting(node, labels),
        ratio=node.number("ratio"),
        verdict=node.text("verdict"),
        interval=read_interval(node, "interval"),
    )


def _metrics(node: Node) -> Metrics:
    fixed = ("arm", "ipc", "images", "extractor")
    values = {}
    for key in node.content:
        if key not in fixed and key in node and isinstance(node.content[key], int | float):
            values[hide_paths(key)] = node.number(key)
    tables = [key for key in node.content if isinstance(node.content[key], dict)]
    return Metrics(
        arm=node.text("arm"),
        ipc=node.whole("ipc"),
        images=node.maybe_whole("images"),
        extractor=node.text("extractor"),
        values=values,
        agreement=node.shares_by_name(tables[0]) if tables else {},
    )


def _detail(node: Node) -> SetDetail:
    return SetDetail(
        arm=node.text("arm"),
        ipc=node.maybe_whole("ipc"),
        images=node.whole("images"),
        octaves=node.numbers("octaves"),
        fine_contrast=node.numbers_by_name("fine_contrast"),
        kurtosis=node.numbers_by_name("kurtosis"),
    )


def _replace(text: str, known: Mapping[str, str]) -> str:
    """Shorten paths that occur elsewhere in the file, the longest first because one may be a prefix of another."""
    for path in sorted((path for path in known if "/" in path or "\\" in path), key=len, reverse=True):
        text = text.replace(path, known[path])
    return text
