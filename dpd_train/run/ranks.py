"""The processes of a run other than the leader: they wait for its data and take their share of the fine-tuning."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from dpd_train.bases.base import at_resolution, load_base
from dpd_train.captions.captions import CaptionTable
from dpd_train.compute.checkpoint import load_state, prefixed, save_state, without_prefix
from dpd_train.compute.device import Deadline, TimeUp
from dpd_train.compute.distributed import Team, Word
from dpd_train.config import TrainConfig
from dpd_train.diffusion.consistency import ConsistencyClassifier
from dpd_train.diffusion.denoiser import LatentData
from dpd_train.diffusion.fine_tune import consistency_network, fine_tune


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
