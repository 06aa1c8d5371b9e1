"""The stage that fine-tunes the base's denoiser on the run's latents and captions."""

from collections.abc import Callable
from functools import partial

from dpd_train.bases.base import Base
from dpd_train.captions.captions import caption_table
from dpd_train.classifiers.training import Labelled
from dpd_train.diffusion.consistency import ConsistencyClassifier
from dpd_train.diffusion.denoiser import LatentData
from dpd_train.diffusion.fine_tune import fine_tune
from dpd_train.images import SceneSet
from dpd_train.run.context import Parts, Phrases, Run, Tuned, Tuning
from dpd_train.run.ranks import handed_over
from dpd_train.run.stages.classifiers import consistency_classifier


def fine_tuned(run: Run, base: Base, latents: Parts, phrases: Phrases, tune: Tuning) -> Tuned:
    """The base after `--steps` of fine-tuning by `tune`.

    Args:
        phrases: of the training part.

    Raises:
        TimeUp: the deadline passed; the state is saved.
        PeerError: another process or site has gone.
    """
    if not run.config.steps:
        return Tuned(base, [], run.config)

    def captioned(scenes: SceneSet, values: Labelled, phrases: Phrases) -> LatentData:
        return LatentData(*values, caption_table(base.tokenizer, scenes.classes, scenes.labels.tolist(), phrases))

    held = run.phrases(run.data.held, "captions of the validation part")
    data = captioned(run.data.train, latents[0], phrases), captioned(run.data.held, latents[1], held)
    return tune(run, base, data, partial(consistency_classifier, run, base, latents))


def tuned_here(
    run: Run,
    base: Base,
    data: tuple[LatentData, LatentData],
    train_consistency_classifier: Callable[[], ConsistencyClassifier | None],
) -> Tuned:
    """Fine-tune in this process and those that were started with it."""
    classifier = train_consistency_classifier()
    with handed_over(run.out, run.team, data[0], base.resolution, classifier), run.team.together():
        tuned, history = fine_tune(
            base,
            data,
            run.config,
            run.state("denoiser"),
            run.out / "adapter",
            run.progress("fine-tuning"),
            classifier=classifier,
            device=run.device,
            deadline=run.deadline,
            team=run.team,
            track=run.track,
        )
    return Tuned(tuned, history, run.config)
