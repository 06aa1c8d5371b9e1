"""The stage of `dpd train --prototypes matched`: watchers, what they see in the images, codes that show it to them."""

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import euclidean_distances

from dpd_runtime.errors import DataError, InputError
from dpd_train.bases.base import Base
from dpd_train.captions.captions import aggregate_prompts, embed
from dpd_train.classifiers.network import ResNet
from dpd_train.classifiers.tdds import kept_count
from dpd_train.classifiers.training import Labelled
from dpd_train.compute.device import placed
from dpd_train.config import TrainConfig, pruned_share
from dpd_train.diffusion.fine_tune import is_large
from dpd_train.prototypes.matching import (
    Matching,
    Watcher,
    is_trained,
    load_watchers,
    match_codes,
    measure,
    starting_codes,
    train_watchers,
)
from dpd_train.prototypes.prototypes import ClassPrototypes, cluster_features
from dpd_train.run.data import Scenes, rows_by_class
from dpd_train.run.stages.tuning import Run

Words = list[tuple[str, ...]]


def check_matched(base: Base, scenes: Scenes, config: TrainConfig) -> None:
    """Raises:
    InputError: a base whose decoder is too large for a loop. DataError: a class with fewer images than k_min.
    """
    if is_large(base):
        raise InputError(
            "--prototypes matched runs the VAE's decoder and its gradient thousands of times, which is for bases below "
            "100 M parameters: take pooled or centroid"
        )
    for name, rows in zip(scenes.train.classes, rows_by_class(scenes.train), strict=True):
        images = kept_count(len(rows), pruned_share(config.prune)) if config.prune else len(rows)
        if images < config.k_min:
            raise DataError(
                f"class {name!r} has {images} different training images, and --prototypes matched needs at least "
                f"--k-min {config.k_min} in each: add images, or lower --k-min"
            )


def matched_prototypes(
    run: Run, base: Base, judge: ResNet, pixels: tuple[Labelled, Labelled], latents: torch.Tensor, words: Words
) -> tuple[list[ClassPrototypes], list[ClassPrototypes]]:
    """Codes of each class, and the generated images' latents where they began.

    Args:
        pixels: of the training and the validation part. latents: scaled, of the training images, which only say which
            image's phrases go to which code's prompt.
        words: of each training image.

    Raises:
        TimeUp: the deadline passed; the state is saved.
    """
    config, device, folder = run.config, run.device, run.out / "checkpoints"
    classes, rows = run.scenes.train.classes, rows_by_class(run.scenes.train)
    progress = run.progress("watchers")
    train_watchers(folder, *pixels, len(classes), progress, device=device, deadline=run.deadline)
    count = min(config.ipc, min(map(len, rows)) // config.k_min)
    start = _start(run, base, judge, rows, words, count)
    scale = float(base.vae.config.scaling_factor)
    base.vae.requires_grad_(False)
    with placed(base.vae, device):
        codes = match_codes(
            start,
            lambda codes: base.vae.decode(codes / scale).sample,
            _watchers(run, pixels[0]),
            Matching(steps=config.matching_steps, seed=config.seed),
            run.progress("matching"),
            state=run.state("matching"),
            device=device,
            deadline=run.deadline,
        )
    of_class = [latents.numpy()[members] for members in rows]
    return _prototypes(codes.numpy(), of_class), _prototypes(start.numpy(), of_class)


def _start(
    run: Run, base: Base, judge: ResNet, rows: list[npt.NDArray[np.int64]], words: Words, count: int
) -> torch.Tensor:
    """Those of an earlier session, or new ones, by one prompt for each class."""
    path, classes = run.out / "checkpoints" / "start.safetensors", run.scenes.train.classes
    if not path.exists():
        phrases = [[words[i] for i in members] for members in rows]
        nobody = [None] * len(classes)
        table = aggregate_prompts(classes, phrases, nobody, run.config.k_min, tokenizer=base.tokenizer)
        texts = [table.texts[of_class[0]] for of_class in table.rows]
        prompts = embed(base.text_encoder, base.tokenizer, [*texts, ""])
        progress = run.progress("starting images")
        with placed(base.unet, run.device):
            codes = starting_codes(base, judge, classes, prompts, count, run.config.seed, progress)
        save_file({"codes": codes.contiguous()}, path)
    return load_file(path)["codes"]


def _watchers(run: Run, train: Labelled) -> list[Watcher]:
    count, progress = len(run.scenes.train.classes), run.progress("statistics")
    watchers = []
    networks = load_watchers(run.out / "checkpoints", count)
    for i, network in enumerate(networks):
        network.to(run.device)
        watchers.append(
            Watcher(network, measure(network, *train, count, run.config.seed + i, run.device), is_trained(i))
        )
        progress(i + 1, len(networks))
    return watchers


def _prototypes(codes: npt.NDArray[np.float32], latents: list[npt.NDArray[np.float32]]) -> list[ClassPrototypes]:
    """All images of a class stand behind each of its codes; members are those nearest to it, for its prompt."""
    found = []
    for own, values in zip(codes, latents, strict=True):
        nearest = euclidean_distances(cluster_features(values), cluster_features(own)).argmin(axis=1)
        found.append(ClassPrototypes(np.ascontiguousarray(own), (len(values),) * len(own), nearest))
    return found
