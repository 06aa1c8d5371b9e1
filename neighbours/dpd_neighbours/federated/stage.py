"""Federated tuning in place of a run's own fine-tuning, and the run of a server without images."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from dpd_neighbours.federated.coordinator import Coordinator
from dpd_neighbours.federated.settings import DECIDED, TITLE, Server, Site, settings_of
from dpd_neighbours.federated.shared import base_hash
from dpd_neighbours.federated.site import SiteInputs
from dpd_runtime.versions import package_versions
from dpd_train.bases import Base, load_base
from dpd_train.captions import aggregate_prompts
from dpd_train.compute import hardware
from dpd_train.config import TrainConfig
from dpd_train.context import MadePrototypes, Trained, Training, Tuned, fitted, write_record, write_run
from dpd_train.denoiser import ConsistencyClassifier, LatentData
from dpd_train.records import RunRecord
from dpd_train.run import recorded
from dpd_train.samples import Stage
from dpd_train.stages import sample_sheet
from dpd_train.tuning import tune_of

BYTES = ("sent_bytes", "returned_bytes", "dense_bytes")


def tuned_together(
    part: Site,
    run: Training,
    base: Base,
    data: tuple[LatentData, LatentData],
    train_consistency_classifier: Callable[[], ConsistencyClassifier | None],
) -> Tuned:
    """Fine-tune together with other sites.

    Raises:
        PeerError, UpdateError, InputError: another participant has gone, or does not fit.
    """
    from dpd_neighbours.federated.flower import take_part

    inputs = SiteInputs(
        base=base,
        data=data,
        classes=run.classes,
        config=run.config,
        state=run.state("denoiser"),
        device=run.device,
        classifier=train_consistency_classifier(),
        track=run.track,
        progress=run.progress(TITLE),
    )
    site = take_part(inputs, part)
    decided = {name: getattr(site.config, name) for name in DECIDED}
    record = {"role": "client", "rounds": site.settings.rounds, "seed": site.config.seed}
    return Tuned(
        site.finished(run.out / "adapter"), site.history, replace(run.config, **decided), {"federated": record}
    )


def served(out: Path, config: TrainConfig, part: Server, progress: Stage, device: torch.device) -> RunRecord:
    """The run of a server, which has no images: pipeline, class names as prompts, sampled images, log.

    Returns:
        the content of run.json.

    Raises:
        PeerError, UpdateError: a site has gone, or sent something that cannot be used.
        InputError: the address is not of this machine.
    """
    from dpd_neighbours.federated.flower import serve

    base = fitted(load_base(config.base), config)
    out.mkdir(parents=True, exist_ok=True)  # a folder that cannot be made is reported now, not after the last round
    config = replace(config, tune=tune_of(config, base))
    coordinator = Coordinator(base, config, settings_of(part, config, base_hash(base), base.resolution), part.clients)
    serve(coordinator, part, progress(TITLE))
    tuned = Tuned(coordinator.finished(out / "adapter"), coordinator.history, config)
    classes, without = part.classes, [None for _ in part.classes]
    prompts = aggregate_prompts(classes, [[] for _ in classes], without, config.k_min, tokenizer=base.tokenizer)
    samples = sample_sheet(tuned.base, classes, prompts, config.seed, device)
    made = MadePrototypes([*without])
    write_run(out, Trained(tuned=tuned, classes=classes, prompts=prompts, prototypes=made, samples=samples))
    totals = {name: sum(round_[name] for round_ in coordinator.history) for name in BYTES}
    record: RunRecord = {
        "config": recorded(config) | {"resolution": tuned.base.resolution},
        "federated": {"role": "server", "rounds": part.rounds, "clients": part.clients, "classes": classes} | totals,
        "metrics": {"denoiser": tuned.history},
        "versions": package_versions("dpd-distill", "torch", "flwr"),
        "hardware": hardware(device),
    }
    write_record(out, record)
    return record
