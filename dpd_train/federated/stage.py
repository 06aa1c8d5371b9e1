"""Federated tuning in place of a run's own fine-tuning, and the run of a server without images."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dpd_runtime.annotations import Progress
from dpd_runtime.errors import MissingExtraError
from dpd_runtime.versions import package_versions
from dpd_train.bases import Base, load_base
from dpd_train.captions import aggregate_prompts
from dpd_train.compute import hardware
from dpd_train.config import TrainConfig
from dpd_train.context import MadePrototypes, Stages, Trained, Training, Tuned, fitted, write_record, write_run
from dpd_train.denoiser import ConsistencyClassifier, LatentData
from dpd_train.federated.coordinator import Coordinator
from dpd_train.federated.settings import SHARED, Federated, settings_of
from dpd_train.federated.shared import base_hash
from dpd_train.federated.site import SiteInputs
from dpd_train.records import RunRecord
from dpd_train.run import check_run_folder, recorded
from dpd_train.stages import sample_sheet
from dpd_train.tuning import tune_of

BYTES = ("sent_bytes", "returned_bytes", "dense_bytes")


def require_flower() -> None:
    """Check that Flower is installed.

    Raises:
        MissingExtraError: it is not.
    """
    if importlib.util.find_spec("flwr") is None:
        raise MissingExtraError("flwr", "fed")


def tuned_together(
    part: Federated,
    run: Training,
    base: Base,
    data: tuple[LatentData, LatentData],
    train_consistency_classifier: Callable[[], ConsistencyClassifier | None],
) -> Tuned:
    """Fine-tune together with other sites. A site takes its share; a server keeps its own images out of the tuning.

    Raises:
        PeerError, UpdateError, InputError: another participant has gone, or does not fit.
    """
    adapter, progress = run.out / "adapter", run.progress("federated tuning")
    if part.role == "server":
        return _served(base, run.config, part, adapter, progress)
    from dpd_train.federated.flower import take_part

    inputs = SiteInputs(
        base=base,
        data=data,
        classes=run.classes,
        config=run.config,
        state=run.state("denoiser"),
        device=run.device,
        classifier=train_consistency_classifier(),
        track=run.track,
        progress=progress,
    )
    site = take_part(inputs, part)
    decided = {name: getattr(site.config, name) for name in SHARED if name != "seed"}
    record = {"role": "client", "rounds": site.settings.rounds, "seed": site.config.seed}
    return Tuned(site.finished(adapter), site.history, replace(run.config, **decided), record)


def _served(base: Base, config: TrainConfig, part: Federated, adapter: Path, progress: Progress) -> Tuned:
    from dpd_train.federated.flower import serve

    config = replace(config, tune=tune_of(config, base))
    settings = settings_of(part, config, base_hash(base), base.resolution)
    coordinator = Coordinator(base, config, settings, part.clients)
    serve(coordinator, part, progress)
    record = {"role": "server", "rounds": part.rounds, "clients": part.clients, "classes": part.classes}
    totals = {name: sum(round_[name] for round_ in coordinator.history) for name in BYTES}
    return Tuned(coordinator.finished(adapter), coordinator.history, config, record | totals)


def serve_without_images(
    out: Path, config: TrainConfig, part: Federated, progress: Stages, device: torch.device
) -> dict[str, Any]:
    """The run of a server that has no images: pipeline, class names as prompts, sampled images, log.

    Returns:
        the content of run.json.

    Raises:
        PeerError, UpdateError, InputError: as `tuned_together`.
    """
    check_run_folder(out, resume=False)
    base = load_base(config.base)
    base = fitted(base, config)
    out.mkdir(parents=True, exist_ok=True)  # a folder that cannot be made is reported now, not after the last round
    tuned = _served(base, config, part, out / "adapter", progress("federated tuning"))
    classes, without = part.classes, [None for _ in part.classes]
    prompts = aggregate_prompts(classes, [[] for _ in classes], without, config.k_min, tokenizer=base.tokenizer)
    samples = sample_sheet(tuned.base, classes, prompts, tuned.config.seed, device)
    made = MadePrototypes([*without])
    write_run(out, Trained(tuned=tuned, classes=classes, prompts=prompts, prototypes=made, samples=samples))
    record: RunRecord = {
        "config": recorded(tuned.config) | {"resolution": tuned.base.resolution},
        "federated": tuned.federated or {},
        "metrics": {"denoiser": tuned.history},
        "versions": package_versions("dpd-distill", "torch", "flwr"),
        "hardware": hardware(device),
    }
    write_record(out, record)
    return {**record}
