"""`dpd pretrain`: train a nano base from scratch."""

from typing import Literal, get_args

Training = Literal["perceptual", "autoencoder", "decoder", "denoiser"]
TRAININGS: tuple[Training, ...] = get_args(Training)
Stage = Training | Literal["save"]
STAGES: tuple[Stage, ...] = (*TRAININGS, "save")
