"""What the stages of a run share: its data, networks and record, one process or several."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file
from safetensors.torch import save

from dpd_runtime.annotations import Float32, Pixels
from dpd_runtime.bands import picture
from dpd_runtime.errors import DataError
from dpd_runtime.files import cache_folder, dumps, loads, write_atomically
from dpd_runtime.machine import usable_memory
from dpd_runtime.manifest import Manifest
from dpd_runtime.remarks import SceneSides, sides_of
from dpd_runtime.sampler import PRIVATE_KINDS, Sampler
from dpd_runtime.text import counted
from dpd_runtime.versions import package_versions
from dpd_train.base_files import RECORD_NAME, base_folder
from dpd_train.bases import Base, at_resolution, encode_cached, is_large, load_base, save_base
from dpd_train.captioners import describe_scenes
from dpd_train.captions import CaptionTable, PromptTable, embed
from dpd_train.classifiers import Labelled, labelled
from dpd_train.compute import Deadline, TimeUp, hardware, load_state, prefixed, save_state, without_prefix
from dpd_train.config import OWN, TrainConfig
from dpd_train.denoiser import ConsistencyClassifier, LatentData
from dpd_train.distributed import Team, Word
from dpd_train.networks import ResNet, load_classifier
from dpd_train.prototypes import ClassPrototypes
from dpd_train.reading import LEAST
from dpd_train.records import RunRecord, kept
from dpd_train.run import PARTS, Run, check_classes, fate_of_scenes, recorded, stored_watchers, working_side
from dpd_train.samples import Look, Stage, Taken, record_of, samples_of
from dpd_train.scene_set import Finding, Findings, SceneSet, fingerprint, look_over
from dpd_train.scenes import Scenes
from dpd_train.symmetry import near_duplicates
from dpd_train.tracking import Track
from dpd_train.tuning import History, consistency_network, fine_tune, tune_of

# -- The data of a run: its scenes at a size that the base can make, without near duplicates.


log = logging.getLogger(__name__)


def fitted(base: Base, config: TrainConfig) -> Base:
    """The base at the run's `working_side`. Changes its configs in place."""
    multiple = base.downsampling * 2 ** (len(base.unet.config.block_out_channels) - 1)
    side = working_side(config.base, base.resolution, multiple, config.resolution)
    if side == base.resolution:
        return base
    if not is_large(base):
        log.warning(
            "base %s was trained at %d px: its sampled images may be worse at %d px, a step takes %.2g times as long",
            config.base,
            base.resolution,
            side,
            (side / base.resolution) ** 2,
        )
    return at_resolution(base, side)


@dataclass(frozen=True)
class RunData:
    """Training and validation part, and what was found while reading them.

    Args:
        train: without near duplicates.
        fingerprint: `scene_set.fingerprint` of all training images, near duplicates included, as an audit must look for
            each of them.
        scenes: class → distinct scenes of the training images, where they are fewer; else nothing.
        taken: entries of run.json and private pictures of the samples that `train` was made by.
        sides: of the files with training images, held-out ones included.
    """

    train: SceneSet
    held: SceneSet
    findings: Findings
    fingerprint: dict[str, object]
    sides: SceneSides
    scenes: RunRecord
    taken: tuple[Taken, ...] = ()


BYTES_A_VALUE = 5
"""Of an image in memory while it is trained on: as it was read, and as float32."""


def _check_memory(scenes: Scenes, side: int) -> None:
    """Check that the images fit into the memory, before they are decoded.

    Raises:
        DataError: they do not.
    """
    count = sum(sum(scenes.counts(part).values()) for part in PARTS)
    bands = (len(scenes.rendering.carried) if scenes.rendering is not None else 0) or 3
    needed, memory = BYTES_A_VALUE * bands * count * side * side, usable_memory()
    if memory is not None and needed > memory:
        raise DataError(
            f"{scenes.root}: {counted(count, 'image')} of {side} px take {needed / 1e9:.1f} GB while they are trained "
            f"on, more than the {memory / 1e9:.1f} GB of memory; give fewer images, a smaller --resolution, or use a "
            "machine with more"
        )


def read_parts(
    scenes: Scenes,
    config: TrainConfig,
    side: int,
    device: torch.device | str = "cpu",
    stage: Stage = lambda title: lambda done, total: None,
    cache: Path | None = None,
) -> RunData:
    """Read the parts at `side` pixels and log what the user should know. Of a test part only hashes are read.

    Samples are taken of the training part alone: cutting, for example, needs labels, which images to be classified
    lack.

    Args:
        device, stage, cache: for samples; None for the user's cache directory.

    Raises:
        DataError: unusable data, a class name that no bundle can hold, or a class of near duplicates of one image.
        InputError: a sample that cannot be taken of these images.
    """
    sides, samples = sides_of(scenes.sizes), samples_of(config.samples)
    for sample in samples:
        sample.check(scenes, side)  # before minutes of decoding
    if not any(sample.cuts for sample in samples):
        for line in fate_of_scenes(sides, config.base, config.resolution, side):
            log.info(line)
    _check_memory(scenes, side)
    train, held = (scenes.part(part, side) for part in PARTS)
    check_classes(scenes.root, train.classes)
    of_all = fingerprint(train)
    near: tuple[Finding, ...] = ()
    if config.keep_near_duplicates:
        train = _with_scenes(train)
    else:
        train, near = _without_near_duplicates(scenes.root, train)
    findings = look_over({"train": train, "val": held}, {"test": scenes.hashes("test")})
    findings = replace(findings, near=near)
    for message in findings.messages():
        log.warning(message)
    distinct, taken = _scenes(train, of_all), []
    for sample in samples:
        look = Look(
            scenes=scenes,
            train=train,
            seed=config.seed,
            cache=cache or cache_folder("samples"),
            device=device,
            stage=stage,
        )
        taken.append(sample.take(look))
        train = taken[-1].train
    return RunData(train, held, findings, of_all, sides, distinct, tuple(taken))


def _without_near_duplicates(data: Path, scenes: SceneSet) -> tuple[SceneSet, tuple[Finding, ...]]:
    left_out = near_duplicates(scenes.images, scenes.hashes)
    if not left_out:
        return scenes, ()
    kept = scenes.only([row for row in range(len(scenes.labels)) if row not in left_out])
    for name, count in zip(scenes.classes, np.bincount(kept.labels, minlength=len(scenes.classes)), strict=True):
        if count < LEAST:
            raise DataError(
                f"{data}: class {name!r} has {count} different images: the others are near duplicates of training "
                f"images, at least {LEAST} needed; add images or pass --keep-near-duplicates"
            )
    names = scenes.paths
    return kept, tuple(Finding("train", names[row], f"left out, near {names[of]}") for row, of in left_out.items())


def _with_scenes(scenes: SceneSet) -> SceneSet:
    """The images with their scenes, where all are trained on."""
    first = near_duplicates(scenes.images, scenes.hashes)
    return replace(scenes, scenes=tuple(scenes.hashes[first.get(row, row)] for row in range(len(scenes.hashes))))


def rows_by_class(scenes: SceneSet) -> list[np.ndarray[Any, Any]]:
    """Rows of each class's images, one of each scene, as a mean of ten copies would be that image."""
    _, first = np.unique(np.array(scenes.scenes or scenes.hashes), return_index=True)
    different = np.zeros(len(scenes.labels), bool)
    different[first] = True
    return [np.flatnonzero((scenes.labels == label) & different) for label in range(len(scenes.classes))]


# -- What the stages of a run share, and what they hand to each other.


Phrases = list[tuple[str, ...]]
"""The phrases of each image."""
Parts = tuple[Labelled, Labelled]
"""Training and validation part."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """What every stage works with: data, config, folders, device, deadline, progress, processes and a tracker."""

    data: RunData
    config: TrainConfig
    out: Path
    cache: Path
    device: torch.device
    deadline: Deadline
    progress: Stage
    team: Team
    track: Track | None

    @property
    def classes(self) -> tuple[str, ...]:
        return self.data.train.classes

    @property
    def channels(self) -> int:
        """Of the images: 3 for RGB, else the number of bands."""
        return int(self.data.train.images.shape[-1])

    @property
    def checkpoints(self) -> Path:
        return self.out / "checkpoints"

    def state(self, name: str) -> Path:
        """The state file of a stage."""
        return self.checkpoints / f"{name}.safetensors"

    @property
    def pixels(self) -> Parts:
        """Images in [-1, 1] with labels."""
        return labelled(self.data.train), labelled(self.data.held)

    def latents(self, base: Base) -> Parts:
        """Scaled latents with labels, from the cache where an earlier run left them."""
        train, held = (
            (
                encode_cached(base.vae, s.images, s.hashes, self.cache, self.progress(title), device=self.device),
                torch.from_numpy(s.labels),
            )
            for s, title in ((self.data.train, "encoding"), (self.data.held, "encoding the validation part"))
        )
        return train, held

    def phrases(self, scenes: SceneSet, title: str) -> Phrases:
        """Phrases of each image, from the cache where an earlier session or run left them."""
        name, progress = self.config.captioner, self.progress(title)
        scenes = replace(scenes, images=picture(scenes.images, scenes.bands))
        return describe_scenes(name, scenes, cache=self.cache, device=self.device, progress=progress)


@dataclass(frozen=True)
class Tuned:
    """The base after fine-tuning.

    Args:
        config: the run's; with the values that another tuning than the run's own chose.
        record: further entries of run.json.
    """

    base: Base
    history: History
    config: TrainConfig
    record: RunRecord = field(default_factory=RunRecord)


Tuning = Callable[[Training, Base, tuple[LatentData, LatentData], Callable[[], ConsistencyClassifier | None]], Tuned]
"""(run, base, training and validation part, what trains the classifier of the consistency) → the base after tuning."""


@dataclass(frozen=True)
class Classifiers:
    """The teacher on pixels and the latent classifier."""

    teacher: ResNet
    latent_classifier: ResNet


@dataclass(frozen=True)
class MadePrototypes:
    """The prototypes of each class.

    Args:
        too_near: number dropped because they decode too near to a training image; None for real images' latents.
        privacy: what `guarantee` says about their noise; None without noise.
    """

    of_class: list[ClassPrototypes | None]
    too_near: int | None = None
    privacy: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a run made, as it is written to the run directory.

    Args:
        samples: picture of sampled images.
        sheets: for each class a picture of its prototypes beside real images; private.
        metrics: for run.json.
    """

    tuned: Tuned
    classes: tuple[str, ...]
    prompts: PromptTable
    prototypes: MadePrototypes
    samples: Pixels
    sheets: dict[str, Pixels] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)


# -- Writing a run directory (docs/guides/train.md): pipeline, prototypes, pictures, log and run.json.


def write_run(out: Path, trained: Trained) -> None:
    """Write everything but the classifiers, which their stage has written, and run.json."""
    tuned = trained.tuned
    save_base(tuned.base, out / "pipeline", base_folder(tuned.config.base) / "tokenizer")
    _write_prototypes(out, trained)
    (out / "samples").mkdir(exist_ok=True)
    Image.fromarray(trained.samples).save(out / "samples" / "final.png")
    if trained.sheets:
        folder = out / "private" / "prototypes"
        folder.mkdir(parents=True, exist_ok=True)
        for name, sheet in trained.sheets.items():
            Image.fromarray(sheet).save(folder / f"{name}.png")
    lines = "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in tuned.history)
    (out / "log.jsonl").write_text(lines, encoding="utf-8")


def _write_prototypes(out: Path, trained: Trained) -> None:
    """Write prototypes.safetensors, and classes.json: names, prompts, each prototype's prompt and number of members.

    Both files are marked as private where the prototypes are of a private kind.
    """
    prototypes, table = trained.prototypes.of_class, trained.prompts
    kind = (trained.tuned.config.prototypes or "none") if any(prototypes) else "none"
    private = {"private": True} if kind in PRIVATE_KINDS else {}
    content = {
        "prototype_kind": kind,
        **private,
        "prompts": table.texts,
        "classes": [
            {"name": name, "prompt_rows": rows, "prototype_counts": own.counts if own else ()}
            for name, rows, own in zip(trained.classes, table.rows, prototypes, strict=True)
        ],
    }
    (out / "classes.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    tensors = {f"class.{i}": torch.from_numpy(p.latents) for i, p in enumerate(prototypes) if p is not None}
    marked = {"private": PRIVATE_KINDS[kind]} if private else None
    write_atomically(out / "prototypes.safetensors", save(tensors, marked))


def write_record(out: Path, record: RunRecord) -> None:
    """Write run.json, which marks the run as finished."""
    write_atomically(out / "run.json", dumps(record))


def run_record(run: Training, trained: Trained) -> RunRecord:
    """The content of run.json except the times."""
    tuned, data, made = trained.tuned, run.data, trained.prototypes
    config, train = tuned.config, data.train
    chosen: dict[str, Any] = {"resolution": tuned.base.resolution, "tune": tune_of(config, tuned.base)}
    watchers = stored_watchers(run.out)
    if config.samples is not None:
        chosen["samples"] = kept(config.samples)
    if watchers:
        chosen["watchers"] = ",".join([OWN, *(watcher["name"] for watcher in watchers)])
    pretraining = _base_pretraining(base_folder(config.base))
    return {
        "config": recorded(config) | chosen,
        "data": data.fingerprint | config.held_out_options | {"scene_sides": data.sides.record()},
        **({"rendering": train.rendering.record()} if train.rendering else {}),
        "rejected": len(data.findings.rejected),
        "near_duplicates": None if config.keep_near_duplicates else len(data.findings.near),
        **data.scenes,
        **record_of(data.taken),
        "prototypes": {
            name: len(own.counts) if own else 0 for name, own in zip(train.classes, made.of_class, strict=True)
        },
        "prototypes_too_near": made.too_near,
        **({"watchers": watchers} if watchers else {}),
        **({"prototype_privacy": made.privacy} if made.privacy else {}),
        **({"private_prototypes": True} if config.prototypes in PRIVATE_KINDS else {}),
        "metrics": trained.metrics | {"denoiser": tuned.history},
        **({"base_pretraining": pretraining} if pretraining else {}),
        "versions": package_versions("dpd-distill", "torch", "diffusers", "transformers", "numpy"),
        "hardware": hardware(run.device),
        **tuned.record,
        **({"processes": run.team.size} if run.team.size > 1 else {}),
    }


def _scenes(train: SceneSet, of_all: Mapping[str, object]) -> RunRecord:
    """{"scenes": class → distinct scenes of the training images} where they are fewer than the images; else nothing.

    Args:
        of_all: `scene_set.fingerprint` of all training images.
    """
    scenes = {name: len(rows) for name, rows in zip(train.classes, rows_by_class(train), strict=True)}
    return {"scenes": scenes} if sum(scenes.values()) < int(str(of_all["images"])) else {}


def _base_pretraining(folder: Path) -> dict[str, Any] | None:
    """The pretrain.json of a base that `dpd pretrain` made; None for others."""
    try:
        content = loads((folder / RECORD_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


# -- Open a finished run: its networks, prompts and prototypes.


@dataclass(frozen=True)
class LoadedRun:
    """A finished run with its networks loaded.

    Args:
        prompts: embeddings [P + 1, L, D] of the class table's prompts, the empty prompt last.
        stored_prototypes: the content of prototypes.safetensors.
    """

    run: Run
    base: Base
    teacher: ResNet
    latent_classifier: ResNet
    prompts: Float32
    stored_prototypes: dict[str, Float32]

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w)."""
        side = int(self.base.unet.config.sample_size)
        return int(self.base.unet.config.in_channels), side, side

    @property
    def prototypes(self) -> list[Float32]:
        """For each class [K, C, h, w]; K may be 0."""
        none = np.zeros((0, *self.latent_shape), np.float32)
        return [self.stored_prototypes.get(f"class.{label}", none) for label in range(len(self.run.table["classes"]))]

    def manifest(self, sampler: Sampler) -> Manifest:
        """The manifest of the run's networks as they are: float32, no graphs, no files."""
        return Manifest(
            name=self.run.path.resolve().name,
            image_shape=(self.base.resolution, self.base.resolution, int(self.base.vae.config.out_channels)),
            latent_shape=self.latent_shape,
            scaling_factor=float(self.base.vae.config.scaling_factor),
            prediction_type=self.base.schedule.prediction_type,
            sampler=sampler,
            precision="fp32",
            opset=0,
            files={},
            data={"fingerprint": self.run.record["data"]["sha256"]},
            bands=self.run.bands,
        )


def load_run(run: Run) -> LoadedRun:
    """Load a run's networks and prototypes, and embed its prompts.

    Raises:
        InputError: a pipeline that cannot be opened.
    """
    base = load_base(str(run.path / "pipeline"))
    return LoadedRun(
        run=run,
        base=base,
        teacher=load_classifier(run.path / "classifier"),
        latent_classifier=load_classifier(run.path / "latent_classifier"),
        prompts=embed(base.text_encoder, base.tokenizer, [*run.table["prompts"], ""]).numpy(),
        stored_prototypes=load_file(run.path / "prototypes.safetensors"),
    )


# -- The processes of a run other than the leader: they wait for its data and take their share of the fine-tuning.


def handover_file(out: Path) -> Path:
    """Where the leader leaves its data for the other processes: in private/, as they are latents of real images."""
    return out / "private" / "handover.safetensors"


@contextmanager
def handed_over(
    out: Path, team: Team, data: LatentData, side: int, classifier: ConsistencyClassifier | None
) -> Iterator[None]:
    """Leave the training data for the other processes of `team` while the block runs, and then remove them.

    Data that a killed session of several processes left are removed in any case.

    Args:
        side: of the images in pixels.
        classifier: handed over too, because its decoder may have been trained in this run.
    """
    path, captions = handover_file(out), data.captions
    tensors = {"latents": data.latents, "labels": data.labels, "template": captions.template}
    tensors |= {"described": captions.described, "empty": captions.empty}
    try:
        if team.size > 1:
            save_state(
                path,
                tensors | prefixed("classifier", classifier.state_dict() if classifier else {}),
                {"side": side},
            )
        yield
    finally:
        path.unlink(missing_ok=True)


def _read_handover(path: Path) -> tuple[LatentData, int, dict[str, torch.Tensor]]:
    """Read data, side of the images, and the classifier's weights."""
    tensors, meta = load_state(path)
    captions = CaptionTable(tensors["template"], tensors["described"], tensors["empty"])
    return (
        LatentData(tensors["latents"], tensors["labels"], captions),
        meta["side"],
        without_prefix("classifier", tensors),
    )


def assist(out: Path, config: TrainConfig, team: Team, device: torch.device, deadline: Deadline) -> None:
    """Take part in a run until the leader says that it is over.

    Raises:
        InputError: the base cannot be opened here.
        PeerError: another process has ended.
    """
    if team.hear() is Word.OVER:
        return
    base = load_base(config.base)  # a base that is missing on this machine is reported before the classifiers train
    if team.hear() is Word.OVER:
        return
    data, side, weights = _read_handover(handover_file(out))
    base = base if side == base.resolution else at_resolution(base, side)
    classifier = None
    if config.lambda_cls:
        classifier = ConsistencyClassifier(consistency_network(out, config, base), torch.zeros_like(weights["floors"]))
        classifier.load_state_dict(weights)
    with suppress(TimeUp):
        fine_tune(
            base,
            (data, data),
            config,
            out / "checkpoints" / "denoiser.safetensors",  # the leader's
            out / "adapter",
            lambda step, steps: None,
            classifier=classifier,
            device=device,
            deadline=deadline,
            team=team,
        )
    team.hear()
