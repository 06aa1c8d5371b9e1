"""What the processes of a run do but the first: wait for its data, and take their share of the fine-tuning."""

from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from dpd_train.bases.base import Base, at_resolution, load_base
from dpd_train.captions.captions import CaptionTable
from dpd_train.classifiers.network import ResNet, load_classifier
from dpd_train.compute.checkpoint import load_state, prefixed, save_state, without_prefix
from dpd_train.compute.device import Deadline, TimeUp
from dpd_train.compute.distributed import Team, Word
from dpd_train.config import TrainConfig
from dpd_train.diffusion.consistency import DecodedJudge, latent_judge
from dpd_train.diffusion.denoiser import LatentData
from dpd_train.diffusion.fine_tune import fine_tune


def handover(out: Path) -> Path:
    """Where the leader leaves its data for a while: latents of real images, so in private/."""
    return out / "private" / "handover.safetensors"


def denoiser_state(out: Path) -> Path:
    return out / "checkpoints" / "denoiser.safetensors"


def judge_of(config: TrainConfig, teacher: ResNet, latent_classifier: ResNet, base: Base) -> nn.Module | None:
    """The frozen judge of the classification consistency; None where the loss has no such term."""
    if not config.lambda_cls:
        return None
    return DecodedJudge(teacher, base.vae) if config.judge_on == "pixels" else latent_judge(latent_classifier)


def write_handover(path: Path, data: LatentData, side: int, judge: nn.Module | None) -> None:
    """side: of the images in pixels. The judge comes along because its decoder may have been trained in this run."""
    captions = data.captions
    tensors = {"latents": data.latents, "labels": data.labels, "template": captions.template}
    tensors |= {"described": captions.described, "empty": captions.empty}
    save_state(path, tensors | prefixed("judge", judge.state_dict() if judge else {}), {"side": side})


def read_handover(path: Path) -> tuple[LatentData, int, dict[str, torch.Tensor]]:
    """Data, side, and the judge's weights."""
    tensors, meta = load_state(path)
    captions = CaptionTable(tensors["template"], tensors["described"], tensors["empty"])
    return LatentData(tensors["latents"], tensors["labels"], captions), meta["side"], without_prefix("judge", tensors)


def assist(out: Path, config: TrainConfig, team: Team, device: torch.device, deadline: Deadline) -> None:
    """Until the leader says that the run is over.

    Raises:
        InputError: the base cannot be opened here.
        PeerError: another process has gone.
    """
    if team.hear() is Word.OVER:
        return
    base = load_base(
        config.base
    )  # now, for one that is missing on this machine is better known before the judges train
    if team.hear() is Word.OVER:
        return
    data, side, weights = read_handover(handover(out))
    base = base if side == base.resolution else at_resolution(base, side)
    judge = judge_of(config, load_classifier(out / "classifier"), load_classifier(out / "latent_classifier"), base)
    if judge is not None:
        judge.load_state_dict(weights)
    with suppress(TimeUp):
        fine_tune(
            base,
            (data, data),
            config,
            denoiser_state(out),
            out / "adapter",
            lambda step, steps: None,
            judge=judge,
            device=device,
            deadline=deadline,
            team=team,
        )
    team.hear()
