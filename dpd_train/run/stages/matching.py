"""The stage of `dpd train --prototypes matched`: train watchers, measure their statistics, match codes to them."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.metrics import euclidean_distances

from dpd_runtime.annotations import Float32, Int64
from dpd_runtime.dataset.sheet import contact_sheet
from dpd_runtime.images.bands import picture
from dpd_runtime.sampling.sample import to_uint8
from dpd_train.bases.base import Base, frozen_decoder
from dpd_train.bases.published import open_published
from dpd_train.captions.captions import aggregate_prompts, embed
from dpd_train.classifiers.encoder import load_encoder
from dpd_train.classifiers.network import ResNet
from dpd_train.classifiers.training import Labelled
from dpd_train.compute.device import placed
from dpd_train.config import FAMILY, HUB, PUBLISHED_IMAGES, extra_watchers
from dpd_train.prototypes.matching import (
    Features,
    Matching,
    See,
    Watcher,
    features_of,
    gaussian_codes,
    load_watchers,
    match_codes,
    measure,
    seeing,
    seeing_only,
    starting_codes,
    train_watchers,
    view_seed,
    with_logits,
)
from dpd_train.prototypes.prototypes import ClassPrototypes, cluster_features
from dpd_train.run.context import Parts, Phrases, Run
from dpd_train.run.data import rows_by_class
from dpd_train.run.folder import matched_count


def matched_prototypes(
    run: Run, base: Base, latent_classifier: ResNet, pixels: Parts, latents: torch.Tensor, phrases: Phrases
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
    train_watchers(
        folder,
        *pixels,
        len(run.classes),
        config.seed,
        run.progress("watchers"),
        longest=config.watcher_steps,
        device=device,
        deadline=run.deadline,
    )
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
            _watchers(run, pixels[0]),
            Matching(steps=config.matching_steps, seed=config.seed),
            run.progress("matching"),
            state=run.state("matching"),
            device=device,
            deadline=run.deadline,
            look=lambda images: _picture(run, images),
        )
    of_class = [latents.numpy()[members] for members in rows]
    return _prototypes(codes.numpy(), of_class), _prototypes(start.numpy(), of_class)


def _picture(run: Run, images: torch.Tensor) -> None:
    """Write what the codes show so far: images [classes, k, N, H, W] in [-1, 1]."""
    pixels = [picture(to_uint8(row.numpy()), run.data.train.bands) for row in images]
    path = run.out / "samples" / "matching.png"
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(contact_sheet([(name, list(row)) for name, row in zip(run.classes, pixels, strict=True)])).save(
        path
    )


def _start(
    run: Run, base: Base, latent_classifier: ResNet, rows: list[Int64], phrases: Phrases, count: int
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
        save_file({"codes": codes.contiguous()}, path)
    return load_file(path)["codes"]


def _watchers(run: Run, train: Labelled) -> list[Watcher]:
    """The trained watchers, and the further ones that the config names, which judge no class."""
    count, progress, device = len(run.classes), run.progress("statistics"), run.device
    own = list(zip(load_watchers(run.checkpoints, count, run.channels), with_logits(count), strict=True))
    further = extra_watchers(run.config.watchers)
    watchers: list[Watcher] = []

    def add(features: Features, see: See, images: Labelled, *, extra: bool) -> None:
        statistics = measure(features, *images, count, view_seed(run.config.seed, len(watchers)), device)
        watchers.append(Watcher(see, statistics, extra))
        progress(len(watchers), len(own) + len(further))

    for network, logits in own:
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        add(features_of(network), seeing(network, logits=logits), train, extra=False)
    for name in further:
        features, images = _further(name, train, run)
        add(features, seeing_only(features), images, extra=True)
    return watchers


def _further(name: str, train: Labelled, run: Run) -> tuple[Features, Labelled]:
    """How a further watcher sees, and the training images that its statistics are measured on."""
    if name.startswith(HUB):
        order = np.random.default_rng(run.config.seed).permutation(len(train[1]))
        labels = train[1].numpy()[order]
        rows = np.concatenate([order[labels == label][:PUBLISHED_IMAGES] for label in range(len(run.classes))])
        return open_published(name.removeprefix(HUB), run.device).features, (train[0][rows], train[1][rows])
    encoder = load_encoder(Path(name.removeprefix(FAMILY))).network
    encoder.to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return features_of(encoder), train


def _prototypes(codes: Float32, latents: list[Float32]) -> list[ClassPrototypes]:
    """All images of a class stand behind each of its codes; the members nearest to a code decide its prompt."""
    prototypes = []
    for own, values in zip(codes, latents, strict=True):
        nearest = euclidean_distances(cluster_features(values), cluster_features(own)).argmin(axis=1)
        prototypes.append(ClassPrototypes(np.ascontiguousarray(own), (len(values),) * len(own), nearest))
    return prototypes
