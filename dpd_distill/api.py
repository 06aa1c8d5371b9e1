"""The calls of a distillation for programs and notebooks. Options are keywords with the names of the command line."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dpd_runtime.annotations import Progress
from dpd_runtime.bundle import Bundle, load_bundle
from dpd_runtime.classifier import Classifier, Labelled, images_below, label_folder, load_engine, open_classifier
from dpd_runtime.errors import InputError
from dpd_runtime.extras import require_extras
from dpd_train.config import resolve  # noqa: TID253 -- loads no PyTorch
from dpd_train.data_card import read_card  # noqa: TID253 -- loads no PyTorch
from dpd_train.reading import ImageOptions  # noqa: TID253 -- loads no PyTorch
from dpd_train.run import Run, open_run  # noqa: TID253 -- loads no PyTorch
from dpd_train.scenes import Scenes  # noqa: TID253 -- loads no PyTorch
from dpd_train.scenes import open_scenes as open_with  # noqa: TID253 -- loads no PyTorch

if TYPE_CHECKING:
    from dpd_eval.results import Evaluation
    from dpd_eval.sets import Set
    from dpd_eval.verdict import Audit

Place = str | Path
Stage = Callable[[str], Progress]
"""Title of a stage → its progress."""


def silent(title: str) -> Progress:
    """Show no progress."""
    return lambda done, total: None


def open_scenes(data: Place, **options: Any) -> Scenes:
    """Open labelled scenes: a folder of class folders, with train/ val/ test/ around them or not, or a list.

    Args:
        options: bands, stretch, val_per_class, split, groups, allow_outside. A data card says what is not given.

    Raises:
        DataError: nothing of that kind at `data`.
        InputError: an option out of range, or one that contradicts the data card.
    """
    card = read_card(Path(data))
    given = options if card is None else card.with_options(options)
    return open_with(Path(data), ImageOptions(**{name: value for name, value in given.items() if value is not None}))


def train(
    scenes: Scenes | Place,
    out: Place,
    *,
    preset: str | None = None,
    resume: bool = False,
    device: str = "auto",
    stage: Stage = silent,
    **options: Any,
) -> Run:
    """Fine-tune a diffusion model on scenes and make prototypes, as `dpd train` does.

    Args:
        scenes: opened, or their place.
        out: run directory: a new one, or with `resume` an unfinished one.
        preset: quick, standard or paper; options that are given win over it.
        options: those of `dpd train`, such as ipc=10, steps=2000, prototypes="matched", seed=1.

    Raises:
        DataError, InputError: unusable scenes, options or places; nothing is written then.
        MissingExtraError: packages are not installed.
    """
    require_extras("train")
    from dpd_train.compute import use_device
    from dpd_train.train import train as train_run

    config = resolve(preset, options)
    if isinstance(scenes, Scenes):
        config = scenes.settle(config, _named(options))
    train_run(_place(scenes), Path(out), config, resume=resume, device=use_device(device), progress=stage)
    return open_run(Path(out))


def export(
    run: Run | Place,
    out: Place,
    *,
    overwrite: bool = False,
    tell: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> Bundle:
    """Compile a run to ONNX graphs in one bundle, measured against PyTorch, as `dpd export` does.

    Args:
        options: those of `dpd export`, such as precision="fp32", codes_only=True, name="site".

    Raises:
        InputError: no finished run, something else at `out`, or prototypes that show real images.
        ParityError: a graph is too far from PyTorch; nothing is left at `out` then.
        MissingExtraError: packages are not installed.
    """
    require_extras("train", "export", "cpu")
    from dpd_export import ExportOptions, export_run

    export_run(
        run if isinstance(run, Run) else Path(run), Path(out), ExportOptions(**options), overwrite=overwrite, tell=tell
    )
    return load_bundle(out, allow_older=True)


def distill(
    scenes: Scenes | Place,
    out: Place,
    *,
    tell: Callable[[str], None] = print,
    stage: Stage = silent,
    tracker: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train, match codes, export, verify, evaluate, audit and report, with a plan, as `dpd distill` does.

    Args:
        out: the bundle, such as site.dpd; a folder site-run beside it keeps everything else.
        tell: gets the lines about data and plan.
        tracker: name of one that accelerate knows, such as tensorboard.
        options: those of `dpd distill`, such as minutes=60, quick=True, ipc=10, holdout="heldout".

    Returns:
        what `dpd distill --json` prints.

    Raises:
        DataError, InputError: unusable scenes, options or places, or a plan that does not fit into `minutes`.
        AuditError: the audit failed; everything is written, and must not leave.
        MissingExtraError: packages are not installed.
    """
    require_extras("train", "export", "eval", "cpu")
    from dpd_distill.distillation import Asked, Inputs, begin, distil, failed_audit, repeating, request_of
    from dpd_train.tracking import check_tracker

    check_tracker(tracker)
    options = _named(options)
    given, opened = dict(options), None
    if isinstance(holdout := options.get("holdout"), Scenes):
        given["holdout"] = holdout.root
    place = scenes.root if isinstance(scenes, Scenes) else Path(scenes)
    asked, repeated = repeating(request_of(Asked, place, Path(out), given), given)
    if isinstance(scenes, Scenes):
        asked = scenes.settle(asked, options)
        held = holdout if isinstance(holdout, Scenes) or holdout is None else open_with(Path(holdout), asked.elsewhere)
        opened = Inputs(scenes, held)
    made = begin(asked, tell, opened=opened, repeated=repeated)
    made.store()
    result = distil(made, stage, tell, tracker)
    failed_audit(result)
    return result


def evaluate(
    sets: "Sequence[Scenes | Set | Place] | Scenes | Set | Place",
    *,
    train: Scenes | Place,
    test: Scenes | Place | Literal["val"],
    teacher: Bundle | Place | None = None,
    device: str = "auto",
    stage: Stage = silent,
    **options: Any,
) -> "Evaluation":
    """Train students on sets and on real subsets, and compare them, as `dpd evaluate` does.

    Args:
        sets: one set or several, made with different seeds.
        test: "val" is the validation part of `train`.
        teacher: a bundle whose classifier answers in the place of labels, in further arms of the same images.
        options: those of `dpd evaluate`, such as ipc=(10,), students=("convnet",), baselines=("random", "full").

    Raises:
        DataError, InputError: as `dpd_eval.evaluate`.
        MissingExtraError: packages are not installed.
    """
    require_extras("train", "cpu")
    from dpd_eval import EvaluateConfig
    from dpd_eval import evaluate as evaluate_sets
    from dpd_eval.sets import Set

    several = [sets] if isinstance(sets, str | Path | Scenes | Set) else sets
    opened = [Path(one) if isinstance(one, str) else one for one in several]
    tested: Any = test if test == "val" or isinstance(test, Scenes) else Path(test)
    config = EvaluateConfig(**options)
    if isinstance(train, Scenes):
        config = train.settle(config, _named(options))
    asked = _bundle(teacher)
    return evaluate_sets(opened, config, train=_place(train), test=tested, teacher=asked, device=device, stage=stage)


def audit(
    audited: "Bundle | Run | Scenes | Set | Place",
    *,
    train: Scenes | Place,
    holdout: Scenes | Place | None = None,
    run: Run | Place | None = None,
    out: Place | None = None,
    overwrite: bool = False,
    device: str = "auto",
    stage: Stage = silent,
    **options: Any,
) -> "Audit":
    """Measure what a bundle, a run or a set gives away of the images it was made from, as `dpd audit` does.

    Args:
        train: the images of the training, without those that were held out.
        holdout: images of the same kind that were not trained on; None for the validation part of `train`.
        run: of the bundle; its VAE encoder allows more tests.
        out: a copy of the bundle with the audit inside; without it nothing is written.
        options: images, seed, extractor, private, cache; and those of `open_scenes` where `train` is a place.

    Returns:
        what was found.

    Raises:
        DataError, InputError, BundleError: as `dpd_eval.audit.audit`; `out` for something that is no bundle.
        MissingExtraError: packages are not installed.
    """
    require_extras("train", "cpu", "eval")
    from dpd_eval.audit import audit as audit_it
    from dpd_eval.subject import open_audit
    from dpd_eval.verdict import write_record
    from dpd_runtime.files import check_writable
    from dpd_runtime.sealing import check_auditable, check_target

    subject = Path(audited) if isinstance(audited, str) else audited
    if out is not None:
        subject = load_bundle(subject, allow_older=True) if isinstance(subject, Path) else subject
        if not isinstance(subject, Bundle):
            raise InputError(f"out={out}: an audit is written into a bundle, and this is none; leave it out")
        check_target(Path(out), overwrite)
        check_writable(Path(out))
        check_auditable(subject)
    own = {name: options.pop(name) for name in ImageOptions().image_options if name in options}
    if isinstance(train, Scenes) and own:
        raise InputError(f"{min(own)}: {train.root} was opened, and says it itself; leave it out")
    scenes = train if isinstance(train, Scenes) else open_scenes(train, **own)
    for name in ("private", "cache"):
        if options.get(name) is not None:
            options[name] = Path(options[name])
    cache = options.pop("cache", None)
    inputs = open_audit(
        subject,
        train=scenes,
        holdout=Path(holdout) if isinstance(holdout, str) else holdout,
        run=run.path if isinstance(run, Run) else None if run is None else Path(run),
        **options,
    )
    found = audit_it(inputs, cache=cache, device=device, stage=stage)
    if out is not None and isinstance(subject, Bundle):
        write_record(found, subject, Path(out))
    return found


def fit(
    distilled: "Scenes | Set | Place",
    out: Place,
    *,
    own: Scenes | Place | None = None,
    teacher: Bundle | Place | None = None,
    unlabelled: Place | None = None,
    device: str = "auto",
    overwrite: bool = False,
    **options: Any,
) -> Classifier:
    """Train a classifier on a set, alone or with a site's own images, as `dpd fit` does.

    Args:
        out: folder of the classifier, which runs without PyTorch.
        own: labelled images.
        teacher: a bundle whose classifier answers in the place of the set's labels.
        unlabelled: folder of images that it answers too.
        options: those of `dpd fit`, such as student="resnet", backbone="vit", steps=1000, seed=1.

    Raises:
        DataError, InputError: as `dpd_eval.inputs.open_fit` and `dpd_eval.fit.fit`.
        MissingExtraError: packages are not installed.
    """
    require_extras("train", "export", "cpu")
    from dpd_distill.fitting import fit_classifier
    from dpd_eval.inputs import open_fit
    from dpd_eval.options import FitConfig
    from dpd_runtime.classifier import check_place

    check_place(Path(out), overwrite)
    made = Path(distilled) if isinstance(distilled, str) else distilled
    inputs = open_fit(
        made,
        FitConfig(**options),
        None if own is None else _place(own),
        _bundle(teacher),
        None if unlabelled is None else Path(unlabelled),
    )
    fit_classifier(inputs, Path(out), device=device, overwrite=overwrite)
    return open_classifier(Path(out))


def predict(classifier: Classifier | Place, images: Place, *, provider: str = "cpu") -> Labelled:
    """Label a folder of images by a classifier, as `dpd predict` does. Needs no PyTorch.

    Raises:
        InputError: no classifier, or no images.
        DataError: no image can be read.
    """
    opened = classifier if isinstance(classifier, Classifier) else open_classifier(Path(classifier))
    place = Path(images)
    _, engine = load_engine(opened, provider, None, None)
    return label_folder(opened, engine, place, images_below(place))


def _named(options: dict[str, Any]) -> dict[str, Any]:
    """The options that say something, also where it is the default."""
    return {name: value for name, value in options.items() if value is not None}


def _place(scenes: Scenes | Place) -> Scenes | Path:
    return scenes if isinstance(scenes, Scenes) else Path(scenes)


def _bundle(teacher: Bundle | Place | None) -> Bundle | None:
    return load_bundle(Path(teacher)) if isinstance(teacher, str | Path) else teacher
