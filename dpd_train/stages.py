"""The stages of a run, in their order."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import euclidean_distances

from dpd_runtime.annotations import Float32, Images, Int64, Pixels
from dpd_runtime.bands import Band, picture
from dpd_runtime.dataset import contact_sheet
from dpd_runtime.errors import DataError, InputError
from dpd_runtime.sampler import BlockGuidance
from dpd_runtime.sampling import NoiseStream, sample, to_uint8
from dpd_runtime.solvers import SOLVERS
from dpd_train.bases import (
    DECODER_LIMIT,
    Base,
    decode_images,
    decode_in_parts,
    decoder_fits,
    frozen_decoder,
    is_large,
    reconstruct,
    torch_denoise,
)
from dpd_train.captions import PromptTable, aggregate_prompts, caption_table, embed
from dpd_train.classifiers import ClassifierTraining, Labelled, evenly, trained_classifier
from dpd_train.compute import placed, save_state
from dpd_train.config import (
    EARLIER_VIEWS,
    HUB,
    PUBLISHED_IMAGES,
    PUBLISHED_PART,
    PUBLISHED_VIEWS,
    TrainConfig,
    extra_watchers,
    published_watchers,
)
from dpd_train.context import (
    Classifiers,
    MadePrototypes,
    Parts,
    Phrases,
    RunData,
    Training,
    Tuned,
    Tuning,
    handed_over,
    rows_by_class,
)
from dpd_train.denoiser import ConsistencyClassifier, LatentData, real_floors, with_noise
from dpd_train.doors import OtherTuning
from dpd_train.encoders import open_encoder
from dpd_train.matching import (
    BESIDE_PUBLISHED,
    Features,
    Matching,
    OwnWatcher,
    See,
    Watcher,
    features_of,
    gaussian_codes,
    load_watchers,
    match_codes,
    measure,
    own_watchers,
    seeing,
    seeing_only,
    starting_codes,
    train_watchers,
    view_seed,
)
from dpd_train.networks import ResNet, accuracy, latent_classifier_shape, teacher_shape
from dpd_train.prototypes import (
    ClassPrototypes,
    at_full_size,
    block_means,
    cluster_features,
    find_prototypes,
    guarantee,
)
from dpd_train.prototypes import with_noise as with_noise_on_means
from dpd_train.published import PublishedModel, open_published
from dpd_train.run import check_matched_counts, matched_count
from dpd_train.scene_set import SceneSet
from dpd_train.too_near import drop_too_near, far_enough
from dpd_train.tuning import consistency_network, fine_tune
from dpd_train.vae import (
    AutoencoderTraining,
    bands_training,
    decoder_training,
    load_perceptual_networks,
    perceptual_training,
    reconstruction_metrics,
    train_autoencoder,
    train_perceptual_networks,
    with_bands,
)

# -- The stages that a run goes through, in their order, and what each of them is for.


Announce = Callable[[Mapping[str, str]], None]
"""Title of each stage, in their order → what it is for."""
MEANING = {
    "teacher": "a classifier of your images, which judges the images of the set",
    "perceptual networks": "which judge what the VAE's decoder makes",
    "VAE decoder": "is trained on your images",
    "VAE": "which turns your bands into latents and back",
    "encoding": "turns images into latents, which the cache keeps",
    "encoding the validation part": "does the same for the images that judge",
    "latent classifier": "a classifier of latents",
    "captions": "phrases that describe each image, for the prompts",
    "captions of the validation part": "with which the fine-tuning is validated",
    "classifier of noisy latents": "which tells the fine-tuning whether a class is recognised",
    "fine-tuning": "teaches the denoiser your images",
    "watchers": "small networks in whose features codes are matched; they stay here",
    "starting images": "sampled images, from which the codes begin",
    "statistics": "what the watchers see in all images of a class",
    "matching": "shapes the codes until the watchers see the same in them",
}


def stages_ahead(
    config: TrainConfig,
    *,
    bands: bool,
    tuned_decoder: bool,
    published: bool = False,
    tuning: OtherTuning | None = None,
) -> dict[str, str]:
    """Title and meaning of each stage of a run, none of which is skipped unless an earlier session finished it.

    Latents and captions that the cache has are not computed again.

    Args:
        config: with the kind of prototypes. bands: whether images carry others than RGB.
        tuned_decoder: whether the VAE's decoder is trained. published: whether a published network judges it then.
        tuning: in place of the run's own.
    """
    listed = ["teacher"]
    judges = [] if published else ["perceptual networks"]
    listed += ["VAE"] if bands else [*judges, "VAE decoder"] * tuned_decoder
    listed += ["encoding", "encoding the validation part", "latent classifier", "captions"]
    if config.steps:
        listed.append("captions of the validation part")
        if config.lambda_cls and config.judge_on == "latents":
            listed.append("classifier of noisy latents")
        listed.append("fine-tuning" if tuning is None else tuning.stage)
    if config.prototypes == "matched":
        listed += ["watchers", *(["starting images"] * (not bands)), "statistics", "matching"]
    meaning = MEANING if tuning is None else {**MEANING, tuning.stage: tuning.meaning}
    return {title: meaning[title] for title in listed}


# -- The stage that trains the VAE on the user's images: its decoder (`--tune-vae`), or all of it for other bands.


def with_tuned_decoder(run: Training, base: Base, pixels: Parts, judge: str | None) -> Base:
    """The base with a decoder trained on the run's images.

    judge: folder or id of the published network that compares the images; None trains networks on them for it.

    Raises:
        TimeUp: the deadline passed; the state is saved.
    """
    networks = _perceptual_networks(run, pixels) if judge is None else open_published(judge, run.device)
    return _trained(run, base, decoder_training(run.config, published=judge is not None), "VAE decoder", networks)


def with_vae_of_bands(run: Training, base: Base) -> Base:
    """The base with a VAE for the bands of the run's images, trained on them.

    Raises:
        TimeUp: the deadline passed; the state is saved.
    """
    return _trained(run, with_bands(base, run.channels), bands_training(run.config), "VAE")


def _trained(
    run: Training,
    base: Base,
    training: AutoencoderTraining,
    stage: str,
    networks: Sequence[ResNet] | PublishedModel | None = None,
) -> Base:
    """The base with its VAE trained on the run's images; with networks of a perceptual loss, its decoder alone."""
    vae = train_autoencoder(
        base.vae,
        torch.from_numpy(run.data.train.images),
        torch.from_numpy(run.data.held.images),
        training,
        run.state("decoder"),
        () if networks is None else networks,
        decoder_only=networks is not None,
        progress=run.progress(stage),
        device=run.device,
        deadline=run.deadline,
    )
    return replace(base, vae=vae)


def _perceptual_networks(run: Training, pixels: Parts) -> list[ResNet]:
    count, folder, device, deadline = len(run.classes), run.checkpoints, run.device, run.deadline
    training, progress = perceptual_training(run.config.perceptual_steps), run.progress("perceptual networks")
    train_perceptual_networks(folder, *pixels, count, training, progress, device=device, deadline=deadline)
    return load_perceptual_networks(folder, count)


# -- The stage that trains the run's classifiers, and the metrics that they and the VAE get at the end.


RATED = 500  # images that the VAE is measured on, less than twice as many
MOST_LOST = 5.0  # percentage points that the teacher may lose on reconstructions by a decoder that is not tuned
log = logging.getLogger(__name__)


def train_teacher(run: Training, pixels: Parts) -> ResNet:
    """Train the teacher on pixels, or read that of an earlier session.

    Raises:
        TimeUp: the deadline passed; the state is saved.
    """
    return trained_classifier(
        run.out / "classifier",
        *pixels,
        teacher_shape(len(run.classes), run.channels),
        ClassifierTraining(steps=run.config.teacher_steps, seed=run.config.seed + 1),
        run.progress("teacher"),
        state=run.state("classifier"),
        device=run.device,
        deadline=run.deadline,
    )


def train_latent_classifier(run: Training, latents: Parts) -> ResNet:
    """Train the classifier of latents, or read that of an earlier session.

    Raises:
        TimeUp: the deadline passed; the state is saved.
    """
    return trained_classifier(
        run.out / "latent_classifier",
        *latents,
        latent_classifier_shape(len(run.classes), latents[0][0].shape[1]),
        ClassifierTraining(steps=run.config.latent_classifier_steps, seed=run.config.seed + 2),
        run.progress("latent classifier"),
        state=run.state("latent_classifier"),
        device=run.device,
        deadline=run.deadline,
    )


def consistency_classifier(run: Training, base: Base, latents: Parts) -> ConsistencyClassifier | None:
    """The classifier of the consistency loss, with the margins of the validation part; None without that loss.

    Raises:
        TimeUp: the deadline passed while the classifier of noisy latents was trained; the state is saved.
    """
    if not run.config.lambda_cls:
        return None
    if run.config.judge_on == "latents":
        _train_on_noisy(run, latents)
    network = consistency_network(run.out, run.config, base)
    with placed(network, run.device):
        floors = real_floors(network, *latents[1], len(run.classes))
    return ConsistencyClassifier(network, floors)


def _train_on_noisy(run: Training, latents: Parts) -> None:
    """Train a classifier of noisy latents: one of clean latents calls any texture that suits it a clear image."""
    seed = run.config.seed + 3
    data, (held, labels) = latents
    trained_classifier(
        run.checkpoints / "noisy_latent_classifier",
        data,
        (with_noise(held, torch.Generator().manual_seed(seed)), labels),
        latent_classifier_shape(len(run.classes), held.shape[1]),
        ClassifierTraining(steps=run.config.latent_classifier_steps, seed=seed),
        run.progress("classifier of noisy latents"),
        noise=with_noise,
        state=run.state("noisy_latent_classifier"),
        device=run.device,
        deadline=run.deadline,
    )


def points_lost(base: Base, teacher: ResNet, data: Labelled) -> float:
    """Percentage points of its accuracy that the teacher loses on reconstructions, on less than 2 · RATED images."""
    images, labels = evenly(data, RATED)
    return 100 * (accuracy(teacher, images, labels) - accuracy(teacher, reconstruct(base.vae, images), labels))


def wants_tuning(run: Training, base: Base, teacher: ResNet, pixels: Parts) -> bool:
    """Whether to tune the decoder: as `--tune-vae` says, or else if reconstructions cost the teacher too much."""
    if run.config.tune_vae is not None:
        return run.config.tune_vae
    lost = points_lost(base, teacher, pixels[1])
    if lost <= MOST_LOST:
        return False
    fits = decoder_fits(base, run.device)
    log.info(
        "the teacher loses %.1f points on reconstructions: the VAE's decoder %s",
        lost,
        "is trained on the images" if fits else "is too large to be trained on a CPU",
    )
    return fits


def metrics(base: Base, classifiers: Classifiers, pixels: Labelled, latents: Labelled) -> dict[str, Any]:
    """Accuracies of the classifiers and quality of the VAE on the validation part, for run.json."""
    (some, labels), teacher = evenly(pixels, RATED), classifiers.teacher
    return {
        "teacher_oa": accuracy(teacher, *pixels),
        "teacher_oa_on_the_same_images": accuracy(teacher, some, labels),
        "teacher_oa_on_reconstructions": accuracy(teacher, reconstruct(base.vae, some), labels),
        "latent_classifier_oa": accuracy(classifiers.latent_classifier, *latents),
        "vae": reconstruction_metrics(base.vae, some),
    }


# -- The stage that fine-tunes the base's denoiser on the run's latents and captions.


def fine_tuned(run: Training, base: Base, latents: Parts, phrases: Phrases, tune: Tuning) -> Tuned:
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
    run: Training,
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


# -- The stage that makes prototypes: find or match them, add noise, and drop those too near to a training image.


def with_prototype_kind(config: TrainConfig, base: Base, data: RunData, device: torch.device) -> TrainConfig:
    """The config with the kind of prototypes that the run makes, if none was asked for: matched if it can, or pooled.

    Raises:
        InputError: matched or further watchers were asked for, and the base's decoder is too large for a CPU.
        DataError: matched or further watchers were asked for, and a class has too few images.
    """
    if config.prototypes not in (None, "matched"):
        return config
    sizes = [len(rows) for rows in rows_by_class(data.train)]
    try:
        check_matched_counts(dict(zip(data.train.classes, sizes, strict=True)), bool(data.train.bands))
        if not decoder_fits(base, device):
            raise InputError(
                "--prototypes matched runs the VAE's decoder and its gradient thousands of times, which on a CPU suits "
                f"decoders below {DECODER_LIMIT / 1e6:.0f} M parameters; use pooled, or --device cuda"
            )
    except (DataError, InputError) as error:
        if config.prototypes == "matched" or extra_watchers(config.watchers):
            raise
        log.warning("prototypes are pooled: %s", str(error).partition(";")[0])
        return replace(config, prototypes="pooled")
    return replace(config, prototypes="matched")


def make_prototypes(
    run: Training, base: Base, latent_classifier: ResNet, pixels: Parts, latents: torch.Tensor, phrases: Phrases
) -> MadePrototypes:
    """Prototypes of the kind that the config names.

    Args:
        latents: scaled, of the training part [n, C, h, w]. phrases: of its images.

    Raises:
        TimeUp: the deadline passed while codes were matched; the state is saved.
    """
    if run.config.prototypes == "matched":
        return _matched(run, base, latent_classifier, pixels, latents, phrases)
    return _of_latents(run, base, latents)


def prompts(run: Training, base: Base, made: MadePrototypes, phrases: Phrases) -> PromptTable:
    """One prompt for each prototype, from the phrases of the images behind it."""
    by_class = [[phrases[i] for i in members] for members in rows_by_class(run.data.train)]
    return aggregate_prompts(run.classes, by_class, made.of_class, run.config.k_min, tokenizer=base.tokenizer)


def _of_latents(run: Training, base: Base, latents: torch.Tensor) -> MadePrototypes:
    config, data = run.config, run.data
    by_class = [latents.numpy()[rows] for rows in rows_by_class(data.train)]
    kind = config.prototypes or "pooled"
    prototypes = find_prototypes(kind, by_class, count=config.ipc, k_min=config.k_min, seed=config.seed)
    if kind == "medoid":
        return MadePrototypes(prototypes)
    privacy = None
    if config.prototype_noise:
        secret = np.random.default_rng()  # not from --seed, which the model card tells
        privacy = guarantee(prototypes, config.prototype_noise)
        prototypes = [
            p and with_noise_on_means(p, values, config.prototype_noise, secret)
            for p, values in zip(prototypes, by_class, strict=True)
        ]
    decode = partial(decode_in_parts, base)
    with placed(base.vae, run.device), torch.no_grad():
        kept, dropped = drop_too_near(prototypes, data.train, data.held, decode, latents.shape[2])
    return MadePrototypes(kept, dropped, privacy)


def _matched(
    run: Training, base: Base, latent_classifier: ResNet, pixels: Parts, latents: torch.Tensor, phrases: Phrases
) -> MadePrototypes:
    """Matched codes. One that is too near to a training image is replaced by the sampled image that it started from."""
    codes, starts = matched_prototypes(run, base, latent_classifier, pixels, latents, phrases)
    decode, data = partial(decode_in_parts, base), run.data
    with placed(base.vae, run.device), torch.no_grad():
        far = far_enough(codes, data.train, data.held, decode, latents.shape[2])
        mended: Sequence[ClassPrototypes | None] = [
            replace(code, latents=np.where(fine[:, None, None, None], code.latents, start.latents))
            for code, start, fine in zip(codes, starts, far, strict=True)
        ]
        kept, _ = drop_too_near(mended, data.train, data.held, decode, latents.shape[2])
    return MadePrototypes(kept, sum(int((~fine).sum()) for fine in far))


# -- The stage of `dpd train --prototypes matched`: train watchers, measure their statistics, match codes to them.


def matched_prototypes(
    run: Training, base: Base, latent_classifier: ResNet, pixels: Parts, latents: torch.Tensor, phrases: Phrases
) -> tuple[list[ClassPrototypes], list[ClassPrototypes]]:
    """The matched codes of each class, and the latents that they started from.

    Args:
        latents: scaled, of the training images; they decide which image's phrases go into which code's prompt, and
            where codes of other bands than RGB start.
        phrases: of each training image.

    Raises:
        TimeUp: the deadline passed; the state is saved.
    """
    config, device, folder = run.config, run.device, run.checkpoints
    rows = rows_by_class(run.data.train)
    own = own_watchers(len(run.classes), config.seed, config.watcher_steps, run.channels)
    if published_watchers(config.watchers):
        own = [own[number] for number in BESIDE_PUBLISHED]
    train_watchers(folder, own, *pixels, run.progress("watchers"), device=device, deadline=run.deadline)
    count = matched_count(config.ipc, min(map(len, rows)))
    if run.data.train.bands:
        labels = torch.from_numpy(run.data.train.labels)
        start = gaussian_codes(latents, labels, len(run.classes), count, config.seed)
    else:
        start = _start(run, base, latent_classifier, rows, phrases, count)
    with placed(base.vae, device):
        codes = match_codes(
            start,
            frozen_decoder(base),
            _watchers(run, own, pixels[0]),
            Matching(steps=config.matching_steps, seed=config.seed),
            run.progress("matching"),
            state=run.state("matching"),
            device=device,
            deadline=run.deadline,
            look=lambda images: _picture(run, images),
        )
    of_class = [latents.numpy()[members] for members in rows]
    return _prototypes(codes.numpy(), of_class), _prototypes(start.numpy(), of_class)


def _picture(run: Training, images: torch.Tensor) -> None:
    """Write what the codes show so far: images [classes, k, N, H, W] in [-1, 1]."""
    pixels = [picture(to_uint8(row.numpy()), run.data.train.bands) for row in images]
    path = run.out / "samples" / "matching.png"
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(contact_sheet([(name, list(row)) for name, row in zip(run.classes, pixels, strict=True)])).save(
        path
    )


def _start(
    run: Training, base: Base, latent_classifier: ResNet, rows: list[Int64], phrases: Phrases, count: int
) -> torch.Tensor:
    """Starting codes of an earlier session, or new ones sampled from one prompt for each class."""
    path, classes = run.state("start"), run.classes
    if not path.exists():
        by_class = [[phrases[i] for i in members] for members in rows]
        without = [None] * len(classes)
        table = aggregate_prompts(classes, by_class, without, run.config.k_min, tokenizer=base.tokenizer)
        texts = [table.texts[of_class[0]] for of_class in table.rows]
        prompts = embed(base.text_encoder, base.tokenizer, [*texts, ""])
        progress = run.progress("starting images")
        with placed(base.unet, run.device):
            codes = starting_codes(base, latent_classifier, classes, prompts, count, run.config.seed, progress)
        save_state(path, {"codes": codes}, {})
    return load_file(path)["codes"]


def _watchers(run: Training, own: list[OwnWatcher], train: Labelled) -> list[Watcher]:
    """The trained watchers, and the further ones that the config names, which judge no class."""
    count, progress, device = len(run.classes), run.progress("statistics"), run.device
    further = extra_watchers(run.config.watchers)
    watchers: list[Watcher] = []

    def add(features: Features, see: See, images: Labelled, *, views: int | None = None, **kind: Any) -> None:
        statistics = measure(features, *images, count, view_seed(run.config.seed, len(watchers)), device, views)
        watchers.append(Watcher(see, statistics, **kind))
        progress(len(watchers), len(own) + len(further))

    for network, watcher in zip(load_watchers(run.checkpoints, own), own, strict=True):
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        add(features_of(network), seeing(network, logits=watcher.logits), train)
    for name in further:
        features, images = _further(name, train, run)
        if name.startswith(HUB):
            late: dict[str, Any] = {"part": PUBLISHED_PART, "earlier_views": EARLIER_VIEWS}
            add(features, seeing_only(features), images, views=PUBLISHED_VIEWS, extra=True, **late)
        else:
            add(features, seeing_only(features), images, extra=True)
    return watchers


def _further(name: str, train: Labelled, run: Training) -> tuple[Features, Labelled]:
    """How a further watcher sees, and the training images that its statistics are measured on."""
    if name.startswith(HUB):
        order = np.random.default_rng(run.config.seed).permutation(len(train[1]))
        labels = train[1].numpy()[order]
        rows = np.concatenate([order[labels == label][:PUBLISHED_IMAGES] for label in range(len(run.classes))])
        return open_published(name.removeprefix(HUB), run.device).features, (train[0][rows], train[1][rows])
    network = open_encoder(name).load()
    network.to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return features_of(network), train


def _prototypes(codes: Float32, latents: list[Float32]) -> list[ClassPrototypes]:
    """All images of a class stand behind each of its codes; the members nearest to a code decide its prompt."""
    prototypes = []
    for own, values in zip(codes, latents, strict=True):
        nearest = euclidean_distances(cluster_features(values), cluster_features(own)).argmin(axis=1)
        prototypes.append(ClassPrototypes(np.ascontiguousarray(own), (len(values),) * len(own), nearest))
    return prototypes


# -- Pictures of a run: sampled images, and prototypes beside real images (private).


COLUMNS = 12


def sample_sheet(base: Base, classes: tuple[str, ...], prompts: PromptTable, seed: int, device: torch.device) -> Pixels:
    """A few images of each class by its first prompt, sampled with PyTorch: a look at the model without export."""
    embeddings = embed(base.text_encoder, base.tokenizer, prompts.texts).numpy()
    make_steps, advance = SOLVERS["dpm++2m"]
    steps, kind = make_steps(base.schedule, 15), base.schedule.prediction_type
    shape = (base.unet.config.in_channels, base.unet.config.sample_size, base.unet.config.sample_size)
    columns = 2 if is_large(base) else 6  # a large base takes minutes for one image on a CPU
    denoise, lines = torch_denoise(base), []
    with placed(base.unet, device), placed(base.vae, device):
        for name, rows in zip(classes, prompts.rows, strict=True):
            embedding = embeddings[rows[0]]
            noise = np.stack([NoiseStream(seed, name, index, 0).normal(shape) for index in range(columns)])
            context = np.repeat(embedding[None], len(noise), axis=0)
            latents = sample(denoise, noise, context, embedding, None, steps, advance, kind, BlockGuidance())
            lines.append((name, list(decode_images(base, latents))))
    return contact_sheet(lines)


def code_sheet(base: Base, scenes: SceneSet, prototypes: Sequence[ClassPrototypes | None]) -> Pixels:
    """A few decoded codes of each class, for a base that samples no images: a look without export."""
    lines = [
        (name, list(picture(decode_in_parts(base, own.latents[:6]), scenes.bands)))
        for name, own in zip(scenes.classes, prototypes, strict=True)
        if own is not None
    ]
    return contact_sheet(lines)


def _nearest_images(latents: Float32, prototypes: Float32) -> Int64:
    """Row of the image nearest to each prototype, in the space of the clustering or of the block means."""
    side = prototypes.shape[2]
    if side == latents.shape[2]:
        features, wanted = cluster_features(latents), cluster_features(prototypes)
    else:
        features, wanted = (x.reshape(len(x), -1) for x in (block_means(latents, side), prototypes))
    nearest: Int64 = euclidean_distances(wanted, features).argmin(axis=1)
    return nearest


def _prototype_sheet(
    base: Base, prototypes: Float32, latents: Float32, images: Images, bands: tuple[Band, ...]
) -> Pixels:
    """Decoded prototypes of one class above the real images nearest to them.

    Args:
        prototypes: [K, C, h, w] or block means. latents: [n, C, h, w] of the class's images [n, H, W, N].
    """
    shown = prototypes[:COLUMNS]
    nearest = images[_nearest_images(latents, shown)]
    decoded = decode_in_parts(base, at_full_size(shown, latents.shape[2]))
    rows = [(name, list(picture(row, bands))) for name, row in (("prototype", decoded), ("nearest real", nearest))]
    return contact_sheet(rows, size=images.shape[1])


def prototype_sheets(
    base: Base,
    scenes: SceneSet,
    rows: Sequence[Int64],
    latents: Float32,
    prototypes: Sequence[ClassPrototypes | None],
    device: torch.device,
) -> dict[str, Pixels]:
    """For each class that has prototypes a picture of them beside real images, which makes it private.

    Args:
        rows: of each class's images in `scenes` and `latents`.
    """
    with placed(base.vae, device):
        return {
            name: _prototype_sheet(base, own.latents, latents[members], scenes.images[members], scenes.bands)
            for name, members, own in zip(scenes.classes, rows, prototypes, strict=True)
            if own is not None
        }
