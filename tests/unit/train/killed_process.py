"""A run of two processes, and one whose second process is killed; with --resume that one again. Not a test itself.

torchrun --nproc_per_node 2 killed_process.py FOLDER [--resume], where FOLDER holds scenes/ and config.json
"""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dpd_train import loop, tuning
from dpd_train.config import TrainConfig
from dpd_train.denoiser import DenoiserTraining
from dpd_train.distributed import PeerError, joined
from dpd_train.train import train

KILL_AT = 4  # of 10 steps are done


def main() -> None:
    folder, resume = Path(sys.argv[1]), "--resume" in sys.argv
    config = TrainConfig(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
    training_of, generator_of = tuning.denoiser_training, loop.step_generator

    def with_every_checkpoint(config: TrainConfig) -> DenoiserTraining:
        return replace(training_of(config), checkpoint_seconds=0.0)

    def killed(seed: int, step: int) -> torch.Generator:
        if step == KILL_AT and team.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return generator_of(seed, step)

    tuning.denoiser_training = with_every_checkpoint
    with joined(torch.device("cpu")) as team:
        common: dict[str, Any] = {"cache": folder / "cache", "team": team}
        if not resume:
            train(folder / "scenes", folder / "whole", config, **common)
            loop.step_generator = killed
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher is not to end the first one before it noticed
        try:
            train(folder / "scenes", folder / "cut", config, resume=resume, **common)
        except PeerError as error:
            (folder / "lost").write_text(str(error), encoding="utf-8")
            raise


if __name__ == "__main__":
    main()
